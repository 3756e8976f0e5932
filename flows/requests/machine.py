"""Which machine to rent, as a person asks for it."""

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tasks.services.rental.choosing.places import countries_of
from tasks.services.rental.provider import MachineSpec

NAME = r"[A-Za-z0-9][A-Za-z0-9 _-]{0,40}"
DEFAULT = MachineSpec()


class MachineWishes(BaseModel):
    """The wishes of a launch; all but the price can be looser than what is rented."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpu: str = Field(
        ",".join(DEFAULT.gpus),
        pattern=rf"^{NAME}(,{NAME})*$",
        description="GPU, as the provider names it; any of several, with commas between them.",
    )
    num_gpus: int = Field(
        DEFAULT.num_gpus, ge=1, le=16, description="GPUs in the machine: a process on each, training.shards at most."
    )
    gpu_ram: float = Field(DEFAULT.gpu_ram_gb, ge=0, le=2000, description="Memory of each GPU in GB, at least.")
    ram: float = Field(DEFAULT.ram_gb, ge=0, le=10_000, description="Memory of the machine in GB, at least.")
    disk: float = Field(DEFAULT.disk_gb, ge=8, le=4000, description="Disk in GB.")
    bandwidth: float = Field(
        DEFAULT.inet_mbps, ge=0, le=100_000, description="Mbit/s with which the machine downloads, at least."
    )
    max_bandwidth_price: float | None = Field(
        DEFAULT.max_usd_per_tb, ge=0, le=1000, description="Most to pay for a TB that the machine downloads, in USD."
    )
    reliability: float = Field(
        DEFAULT.reliability, ge=0, le=1, description="Share of the time that the machine was up, at least."
    )
    verified: bool = Field(DEFAULT.verified, description="Only machines that the provider has tested.")
    datacenter: bool = Field(DEFAULT.datacenter, description="Only machines of data centres.")
    region: str | None = Field(
        None, description="Where the machine is: countries such as DE, or europe, north_america, with commas."
    )
    image: str = Field(DEFAULT.image, pattern=r"^[A-Za-z0-9][A-Za-z0-9./:@_-]{0,200}$", description="Docker image.")
    max_price: float = Field(
        DEFAULT.max_usd_per_hour, gt=0, le=128, description="Most to pay for a machine, in USD per hour."
    )
    interruptible: bool = Field(
        DEFAULT.interruptible, description="Bid for a machine that may be taken away, at a third of the price."
    )

    @field_validator("region")
    @classmethod
    def _is_known(cls, region: str | None) -> str | None:
        if region is not None:
            countries_of(region)
        return region

    def spec(self, hours: float) -> MachineSpec:
        """The machine to look for, free for so many hours."""
        return MachineSpec(
            gpus=tuple(name.strip().replace(" ", "_") for name in self.gpu.split(",")),
            num_gpus=self.num_gpus,
            gpu_ram_gb=self.gpu_ram,
            ram_gb=self.ram,
            disk_gb=self.disk,
            inet_mbps=self.bandwidth,
            max_usd_per_tb=self.max_bandwidth_price,
            reliability=self.reliability,
            verified=self.verified,
            datacenter=self.datacenter,
            countries=countries_of(self.region) if self.region is not None else (),
            max_usd_per_hour=self.max_price,
            interruptible=self.interruptible,
            image=self.image,
            hours=hours,
        )
