"""A policy replayed over a trace: what it pays, and when it is done."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from harness.bench.market.traces import TICK_H, Trace

Machine = Literal["none", "spot", "on demand"]


@dataclass(frozen=True)
class View:
    """What a policy knows at the beginning of a tick; times are in ticks, prices in that of a tick on demand."""

    machine: Machine
    ready_in: int
    """Ticks until the machine trains; 0: it does."""
    available: bool
    price: float
    work_left: int
    time_left: int
    changeover: int

    @property
    def must_buy(self) -> bool:
        """Whether only a machine on demand, from now on or from the next tick on, is sure to be in time."""
        begun = self.ready_in if self.machine == "on demand" else self.changeover
        return self.work_left + begun >= self.time_left


class Policy(Protocol):
    """Chooses the machine of every tick; a new one is made for every replay."""

    def __call__(self, view: View) -> Machine:
        """`spot` only while one is available."""


@dataclass(frozen=True)
class Outcome:
    """What a replay came to, in hours on demand."""

    cost: float
    in_time: bool
    changeovers: int


def replay(trace: Trace, work: int, deadline: int, make: Callable[[int, int], Policy]) -> Outcome:
    """Train `work` ticks before `deadline`; a policy is made with both."""
    policy, machine, ready_in, cost, changeovers = make(work, deadline), "none", 0, 0.0, 0
    left = work
    for now in range(deadline):
        if machine == "spot" and not trace.available[now]:
            machine = "none"
        view = View(machine, ready_in, trace.available[now], trace.price[now], left, deadline - now, trace.changeover)  # type: ignore[arg-type]
        chosen = policy(view)
        if chosen == "spot" and not trace.available[now]:
            raise AssertionError("a machine was chosen that is not to be had")
        if chosen not in ("none", machine):
            ready_in, changeovers = trace.changeover, changeovers + 1
        machine = chosen
        if machine == "none":
            continue
        cost += trace.price[now] if machine == "spot" else 1.0
        if ready_in:
            ready_in -= 1
        else:
            left -= 1
        if not left:
            break
    return Outcome(cost * TICK_H, not left, changeovers)
