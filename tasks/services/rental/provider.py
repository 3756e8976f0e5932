"""What a provider of rented machines does, and the words in which it is asked and answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from tasks.services.rental.torch_wheels import least_cuda
from tasks.services.run import environment
from ups_models.errors import BadInput, UPSError

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

    gpu: str = "RTX_4090"
    num_gpus: int = 1
    disk_gb: float = 40.0
    max_usd_per_hour: float = 0.5
    interruptible: bool = True
    region: str | None = None
    image: str = "pytorch/pytorch:2.6.0-cuda12.4-cudnn9-runtime"
    hours: float = 24.0

    @property
    def min_cuda(self) -> float:
        """The CUDA that the driver must support, at least: what the image was built for."""
        return least_cuda(self.image)


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


@runtime_checkable
class Reachable(Protocol):
    """A provider that knows how to log in to its machines; not every one does."""

    def ssh_address(self, instance_id: str) -> SshAddress | None:
        """Where to log in; None: it is this machine. Raises NoSuchInstance, and ProviderError before it is up."""


@runtime_checkable
class Accounted(Protocol):
    """A provider with an account that is charged; not every one has one."""

    def credit(self) -> float | None:
        """What the account has left, in USD; None where it does not say. Raises UnknownOutcome, ProviderRefused."""


class Provider(Protocol):
    """Rents machines and destroys them. Made by a factory that is given the run directory (providers/registry.py)."""

    @property
    def supports_bids(self) -> bool:
        """Whether an interruptible machine is rented by a bid; if not, the price of an offer is fixed."""

    def search(self, spec: MachineSpec) -> list[Offer]:
        """Offers under the price, cheapest first. Raises NoOffer that says what the cheapest one was."""

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
