"""Which machine to train on now, so that the training is done by a deadline and costs least.

Interruptible machines come and go; one on demand is always to be had and costs more. Whether one is to be had is taken
for a Markov chain of two states, whose rates are estimated from what was seen and from a prior. Of this chain the
policy of least expected cost is computed backwards from the deadline, by Bellman's equation. What may miss the deadline
has a cost that nothing outweighs: while on demand is to be had, none is missed. `make bench-market` compares it with
the rules of "Can't Be Late" (NSDI 2024), and with the least that is possible for one who knows what will come.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Machine = Literal["none", "spot", "on demand"]
Values = NDArray[np.float32]

TICK_H = 1 / 12
"""Hours in a tick: everything is counted in ticks of five minutes."""
LATE = 1e5
"""Cost of a missed deadline, in ticks on demand."""
PRIOR_SPAN, PRIOR_OUTAGE = (16.0, 1.5), (19.0, 2.0)
"""Mean ticks for which an interruptible machine is to be had, and is not, and how many sightings each is worth."""
SPANS = tuple(4.0 * 2**power for power in range(8))
OUTAGES = (6.0, 10.0, 16.0, 26.0, 42.0)
PRICES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
"""Estimates are rounded to these, so that few tables serve all decisions."""
LONGEST = 576
"""Ticks to the deadline, two days: beyond, several count as one."""
NONE, SPOT = 0, 1
"""Rows of a table: no machine; then an interruptible one and one on demand, each by the ticks until it trains."""


@dataclass(frozen=True)
class Situation:
    """What is known at the beginning of a tick; times are in ticks, prices in that of a tick on demand."""

    machine: Machine
    ready_in: int
    """Ticks until the machine trains; 0: it does."""
    available: bool
    """Whether an interruptible machine is to be had."""
    price: float
    work_left: int
    time_left: int
    changeover: int
    """Ticks from the start of a machine to its first step."""


@dataclass(frozen=True)
class Sightings:
    """For how many ticks an interruptible machine was seen to be had, and not; and how often either ended."""

    up: int = 0
    down: int = 0
    ends: int = 0
    begins: int = 0
    last: bool | None = None
    ticks: int = 1
    """So many are counted as one."""

    def then(self, available: bool) -> "Sightings":
        """After one more tick."""
        if self.last is None:
            return replace(self, last=available)
        if self.last:
            return replace(self, up=self.up + 1, ends=self.ends + (not available), last=available)
        return replace(self, down=self.down + 1, begins=self.begins + available, last=available)

    @property
    def span(self) -> float:
        """Mean ticks for which one is to be had."""
        return _mean(PRIOR_SPAN, self.up, self.ends) / self.ticks

    @property
    def outage(self) -> float:
        """Mean ticks for which none is."""
        return _mean(PRIOR_OUTAGE, self.down, self.begins) / self.ticks


@dataclass(frozen=True)
class Choice:
    """The machine of least expected cost, and what each was expected to cost to the end, in ticks on demand."""

    machine: Machine
    expected: dict[Machine, float]


def choose(now: Situation, seen: Sightings) -> Choice:
    """The machine for this tick. A machine that is kept is preferred to an equal one."""
    if now.time_left > LONGEST:
        return _coarsely(now, seen)
    span, outage = _nearest(SPANS, seen.span), _nearest(OUTAGES, seen.outage)
    work, time = _rounded_up(now.work_left), _rounded_up(now.time_left)
    value = _table(work, time, now.changeover, span, outage, _nearest(PRICES, now.price))
    after, rest = _expected(value[now.time_left - 1], span, outage, now.available), now.work_left
    costs: dict[Machine, float] = {"none": float(after[NONE, rest])}
    offers: dict[Machine, tuple[int, float]] = {"on demand": (SPOT + 1 + now.changeover, 1.0)}
    if now.available:
        offers["spot"] = (SPOT, now.price)
    for machine, (base, price) in offers.items():
        ready_in = now.ready_in if now.machine == machine else now.changeover
        costs[machine] = price + float(after[base + ready_in - 1, rest] if ready_in else after[base, rest - 1])
    return Choice(min(costs, key=lambda machine: (costs[machine], machine != now.machine)), costs)


def _coarsely(now: Situation, seen: Sightings) -> Choice:
    """The choice in ticks of several: a far deadline needs no finer ones, and its tables would not fit into memory."""
    ticks = math.ceil(now.time_left / LONGEST)
    fewer = replace(
        now,
        ready_in=math.ceil(now.ready_in / ticks),
        work_left=math.ceil(now.work_left / ticks),
        time_left=now.time_left // ticks,
        changeover=math.ceil(now.changeover / ticks),
    )
    choice = choose(fewer, replace(seen, ticks=ticks))
    return Choice(choice.machine, {machine: ticks * cost for machine, cost in choice.expected.items()})


def _mean(prior: tuple[float, float], ticks: int, ends: int) -> float:
    mean, weight = prior
    return (weight * mean + ticks) / (weight + ends)


def _nearest(grid: tuple[float, ...], value: float) -> float:
    return min(grid, key=lambda point: abs(np.log(point / max(value, 1e-6))))


def _rounded_up(count: int) -> int:
    """To a power of two: one table serves a whole training, which has less and less left."""
    return 1 << max(5, (count - 1).bit_length())


@lru_cache(maxsize=32)
def _table(work: int, time: int, changeover: int, span: float, outage: float, price: float) -> Values:
    """Least expected cost to the end: value[time left, is one to be had, machine, work left]."""
    rows, bought = 1 + 2 * (changeover + 1), SPOT + 1 + changeover
    value = np.empty((time + 1, 2, rows, work + 1), np.float32)
    value[0] = LATE
    value[..., 0] = 0.0
    for left in range(1, time + 1):
        for available in (False, True):
            after = _expected(value[left - 1], span, outage, available)
            buy = 1.0 + _a_tick_later(after, bought, changeover)
            fresh = np.minimum(after[NONE], buy[changeover])
            now = value[left, int(available)]
            now[SPOT:bought] = fresh
            if available:
                bid = price + _a_tick_later(after, SPOT, changeover)
                fresh = np.minimum(fresh, bid[changeover])
                now[SPOT:bought] = np.minimum(fresh, bid)
            now[NONE], now[bought:] = fresh, np.minimum(fresh, buy)
            now[:, 0] = 0.0
    return value


def _expected(after: Values, span: float, outage: float, available: bool) -> Values:
    """Of the next tick's values, by whether one will be to be had: one that is lost leaves no machine."""
    changes = 1.0 / (span if available else outage)
    same, other = after[int(available)], after[int(not available)]
    return np.asarray((1.0 - changes) * same + changes * other, np.float32)


def _a_tick_later(after: Values, base: int, changeover: int) -> Values:
    """For a machine that trains in 0, 1, … ticks: a tick of work done, or one tick nearer to its first step."""
    worked = np.concatenate(([np.float32(0.0)], after[base, :-1]))
    return np.vstack([worked, after[base : base + changeover]])
