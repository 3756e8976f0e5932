"""Which of several machines finishes a training best: by the money and the time to its end, not by the hour's price."""

from collections.abc import Iterable
from dataclasses import dataclass

from tasks.services.rental.choosing.pace import Pace
from tasks.services.rental.provider import HOURS_A_MONTH, MachineSpec, Offer

DOWNLOAD_GB = 5.0
"""Image, packages and checkpoints of one start: stated, of PyTorch's images."""


@dataclass(frozen=True)
class Prospect:
    """What a machine is expected to come to if it is never taken away."""

    offer: Offer
    hours: float
    usd: float


@dataclass(frozen=True)
class Ranking:
    """How machines are compared for the work that is left.

    Attributes:
        steps_left: Steps of training.
        startup_h: Hours from the order of a machine to its first step.
        usd_per_hour_sooner: What an hour is worth to the one who waits.
    """

    steps_left: int
    pace: Pace
    startup_h: float
    usd_per_hour_sooner: float

    def prospect(self, offer: Offer, spec: MachineSpec) -> Prospect:
        """Of one machine: the hours to the end, and all that they cost, disk and downloads included."""
        hours = self.startup_h + self.steps_left / self.pace.steps_per_s(offer.gpu) / 3600.0
        disk = offer.disk_usd_per_gb_month * spec.disk_gb / HOURS_A_MONTH
        return Prospect(offer, hours, hours * (offer.usd_per_hour + disk) + DOWNLOAD_GB * offer.inet_usd_per_gb)

    def best_first(self, offers: Iterable[Offer], spec: MachineSpec) -> list[Prospect]:
        """All of them, by money plus the worth of the time."""
        return self.sorted([self.prospect(offer, spec) for offer in offers])

    def sorted(self, prospects: Iterable[Prospect]) -> list[Prospect]:
        """The best first."""
        return sorted(prospects, key=self.worth)

    def worth(self, one: Prospect) -> float:
        """What a prospect comes to in USD, the time included; less is better."""
        return one.usd + self.usd_per_hour_sooner * one.hours
