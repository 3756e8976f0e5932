"""What an emulated cloud charges: prices per hour over intervals of its clock."""

from dataclasses import dataclass
from typing import Any, Protocol

HOUR_S = 3600.0


class Charged(Protocol):
    """What costs."""

    @property
    def id(self) -> Any:
        """Its number or name."""


@dataclass
class Entry:
    """One line of the ledger: a price per hour over an interval of the emulator's clock."""

    instance_id: Any
    kind: str  # "disk" or "gpu"
    usd_per_hour: float
    started_at: float
    ended_at: float | None = None

    def hours(self, now: float) -> float:
        """Length of the interval; an open one lasts until now."""
        return ((now if self.ended_at is None else self.ended_at) - self.started_at) / HOUR_S

    def usd(self, now: float) -> float:
        """What it cost until now."""
        return self.hours(now) * self.usd_per_hour


class Ledger(list[Entry]):
    """Every cost there was."""

    def open(self, machine: Charged, kind: str, usd_per_hour: float, now: float) -> None:
        """Start to charge, unless it is charged already."""
        if not any(entry.ended_at is None for entry in self.of(machine.id, kind)):
            self.append(Entry(machine.id, kind, usd_per_hour, now))

    def close(self, machine: Charged, kind: str, now: float) -> None:
        """Cease to charge."""
        for entry in self.of(machine.id, kind):
            if entry.ended_at is None:
                entry.ended_at = now

    def of(self, instance_id: Any = None, kind: str | None = None) -> list[Entry]:
        """The lines of one instance, of one kind."""
        return [entry for entry in self if instance_id in {None, entry.instance_id} and kind in {None, entry.kind}]
