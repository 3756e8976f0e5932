"""What a provider of rented machines does, and the words in which it is asked and answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from tasks.services.rental.torch_wheels import least_cuda
from tasks.services.run import environment
from ups_models.errors import BadInput, UPSError

HOURS_A_MONTH = 730.0
State = Literal["booting", "running", "failed", "away"]
"""away: neither running nor about to be: outbid, stopped, its host offline. health.py decides whether that lasts."""


class ProviderError(UPSError):
    """The provider refused, or answered something that cannot be understood."""


class ProviderRefused(BadInput):
    """What the owner of the account must cure: the key, its rights, the credit."""


class KeyRefused(ProviderRefused):
    """The key, or its rights, are refused. Once is no proof while a machine runs: it may have been a proxy."""


class NoOffer(BadInput):
    """No machine on offer fits."""


class NoSuchInstance(ProviderError):
    """The instance does not exist any more."""


class OfferGone(ProviderError):
    """Somebody else was faster, or the bid was too low."""


class UnknownOutcome(ProviderError):
    """No answer, or one that proves nothing: what was asked for may have happened."""


@dataclass(frozen=True)
class MachineSpec:
    """The machine that is wanted; the defaults are those of `ups launch`."""

    gpus: tuple[str, ...] = ("RTX_4090",)
    """Any of them; a space is written as an underscore."""
    num_gpus: int = 1
    gpu_ram_gb: float = 0.0
    """Of each GPU, at least; so are the next."""
    ram_gb: float = 0.0
    disk_gb: float = 40.0
    inet_mbps: float = 0.0
    max_usd_per_tb: float | None = None
    """Most to pay for what is downloaded; None: any price."""
    reliability: float = 0.9
    verified: bool = True
    datacenter: bool = False
    countries: tuple[str, ...] = ()
    """Two letters each; empty: anywhere."""
    max_usd_per_hour: float = 0.5
    interruptible: bool = True
    image: str = "pytorch/pytorch:2.6.0-cuda12.4-cudnn9-runtime"
    hours: float = 24.0
    needs_gpu: bool = True
    """Whether the job trains on a GPU; a machine of one's own may have none."""

    @property
    def min_cuda(self) -> float:
        """The CUDA that the driver must support, at least: what the image was built for."""
        return least_cuda(self.image)

    @property
    def name(self) -> str:
        """Such as `1 x RTX_4090 or RTX_3090`."""
        return f"{self.num_gpus} x {' or '.join(self.gpus)}"


@dataclass(frozen=True)
class Offer:
    """One machine on offer, at the price that would be paid for it: its own, or our bid."""

    id: str
    machine_id: str
    gpu: str
    num_gpus: int
    usd_per_hour: float
    region: str
    cuda: float | None = None
    """The newest CUDA that its driver supports; None where the provider does not say."""
    disk_usd_per_gb_month: float = 0.0
    inet_usd_per_gb: float = 0.0
    """For what is downloaded."""
    is_bid: bool = False
    """Whether it would be rented by a bid, and may be taken away."""
    inet_up_usd_per_gb: float = 0.0
    """For what is uploaded."""

    def environment(self) -> dict[str, str]:
        """What a job on the machine has to know of it."""
        return {environment.CUDA: f"{self.cuda:g}"} if self.cuda is not None else {}


@dataclass(frozen=True)
class Instance:
    """One rented machine, and nothing of the provider's answer that could hold a secret."""

    id: str
    machine_id: str
    label: str
    state: State
    detail: str
    is_bid: bool
    usd_per_hour: float


@dataclass(frozen=True)
class SshAddress:
    """Where a machine takes logins."""

    user: str
    host: str
    port: int
    command: tuple[str, ...] = ()
    """How to log in where the user's own ssh configuration knows more of it than this; empty elsewhere."""


@runtime_checkable
class Reachable(Protocol):
    """A provider that knows how to log in to its machines; not every one does."""

    def ssh_address(self, instance_id: str) -> SshAddress | None:
        """Where to log in; None: it is this machine. Raises NoSuchInstance, and ProviderError before it is up."""


@runtime_checkable
class Hosted(Protocol):
    """A provider of machines that the user names."""

    def use_hosts(self, hosts: str) -> None:
        """Offer these, or where the text is empty those that are named elsewhere. Raises BadInput; asks nobody."""


@runtime_checkable
class Accounted(Protocol):
    """A provider with an account that is charged; not every one has one."""

    def credit(self) -> float | None:
        """What the account has left, in USD; None where it does not say. Raises UnknownOutcome, ProviderRefused."""


@runtime_checkable
class Rebiddable(Protocol):
    """A provider whose interruptible machines stay ours while they are outbid, and come back when more is bid."""

    def price_to_keep(self, instance_id: str) -> float | None:
        """The bid in USD per hour that would run it now; None where that is not said. Raises UnknownOutcome."""

    def change_bid(self, instance_id: str, usd_per_hour: float) -> None:
        """Bid so much for it from now on. Raises UnknownOutcome, ProviderError."""


class Provider(Protocol):
    """Rents machines and destroys them. Made by a factory that is given the run directory (providers/registry.py)."""

    @property
    def supports_bids(self) -> bool:
        """Whether an interruptible machine is rented by a bid; if not, the price of an offer is fixed."""

    def search(self, spec: MachineSpec) -> list[Offer]:
        """Offers that fit, under the price, cheapest first. Raises NoOffer: what the nearest misses, and its price."""

    def rent(self, offer: Offer, spec: MachineSpec, *, label: str, onstart: str, env: Mapping[str, str]) -> str:
        """Rent once; the instance's id. Raises OfferGone, or UnknownOutcome when it may have been rented anyway."""

    def describe(self, instance_id: str) -> Instance | None:
        """The instance as it is now; None once it is gone. Raises UnknownOutcome."""

    def list_instances(self, prefix: str) -> list[Instance]:
        """Every instance whose label begins with the prefix, stopped ones included. Raises UnknownOutcome."""

    def logs(self, instance_id: str) -> str:
        """The last lines that the instance wrote; empty when there are none to be had."""

    def destroy(self, instance_id: str) -> None:
        """End the instance and its cost, and confirm that it is gone. Raises ProviderError when it is not."""

    def has_account_variable(self, name: str) -> bool:
        """Whether the account hands a variable of this name to every instance."""
