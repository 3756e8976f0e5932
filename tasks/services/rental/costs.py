"""What rented machines have cost, by our own clock and the agreed prices: by launch, by machine, by day."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from tasks.services.rental.journal import Machine
from tasks.services.rental.launches import Known

By = Literal["launch", "machine", "day"]


@dataclass(frozen=True)
class Cost:
    """The cost of one machine on one day (UTC), in USD; disk and traffic are charged beside the GPU."""

    run: str
    machine: str
    day: str
    hours: float = 0.0
    gpu_usd: float = 0.0
    disk_usd: float = 0.0
    traffic_usd: float = 0.0


@dataclass(frozen=True)
class Total:
    """Costs that belong together."""

    name: str
    hours: float
    gpu_usd: float
    disk_usd: float
    traffic_usd: float

    @property
    def usd(self) -> float:
        """In all."""
        return self.gpu_usd + self.disk_usd + self.traffic_usd


def costs_of(launches: Iterable[Known], now: float) -> list[Cost]:
    """The cost of every machine of the journals until `now`, day by day; an order without a machine costs nothing."""
    return [
        cost
        for known in launches
        for machine in known.launch.machines
        if machine.id is not None and known.journal is not None
        for cost in _costs(known.launch.run, machine, now)
    ]


def _costs(run: str, machine: Machine, now: float) -> Iterator[Cost]:
    name = f"{machine.id} ({machine.offer.get('gpu', 'unknown GPU')})"
    for began, ended, usd_per_hour in machine.spans(now):
        for day, hours in _days(began, ended):
            yield Cost(run, name, day, hours, hours * usd_per_hour, hours * machine.disk_usd_per_hour)
    for at, usd in machine.traffic:
        yield Cost(run, name, f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}", traffic_usd=usd)


def totals(costs: Sequence[Cost], by: By) -> list[Total]:
    """The costs of each launch, machine or day, in the order of the costs; days in their own."""
    names = [cost.run if by == "launch" else cost.machine if by == "machine" else cost.day for cost in costs]
    order = sorted(set(names)) if by == "day" else list(dict.fromkeys(names))
    return [_total(name, [cost for cost, its in zip(costs, names, strict=True) if its == name]) for name in order]


def total(costs: Sequence[Cost]) -> Total:
    """All of them."""
    return _total("in all", costs)


def _total(name: str, costs: Sequence[Cost]) -> Total:
    hours, gpu = sum(cost.hours for cost in costs), sum(cost.gpu_usd for cost in costs)
    return Total(name, hours, gpu, sum(cost.disk_usd for cost in costs), sum(cost.traffic_usd for cost in costs))


def _days(began: float, ended: float) -> Iterator[tuple[str, float]]:
    """The days of an interval, and the hours of it on each."""
    start, end = datetime.fromtimestamp(began, UTC), datetime.fromtimestamp(max(began, ended), UTC)
    while True:
        midnight = datetime(start.year, start.month, start.day, tzinfo=UTC) + timedelta(days=1)
        yield f"{start:%Y-%m-%d}", (min(end, midnight) - start).total_seconds() / 3600
        if end <= midnight:
            return
        start = midnight
