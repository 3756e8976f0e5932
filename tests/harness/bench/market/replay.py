"""A policy replayed over a trace: what it pays, and when it is done."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from harness.bench.market.traces import Trace
from tasks.services.rental.choosing.policy import TICK_H, Machine, Situation


class Policy(Protocol):
    """Chooses the machine of every tick; a new one is made for every replay."""

    def __call__(self, view: Situation) -> Machine:
        """`spot` only while one is available."""


@dataclass(frozen=True)
class Outcome:
    """What a replay came to, in hours on demand."""

    cost: float
    in_time: bool
    changeovers: int


def replay(trace: Trace, work: int, deadline: int, make: Callable[[int, int], Policy]) -> Outcome:
    """Train `work` ticks before `deadline`; a policy is made with both."""
    policy, ready_in, cost, changeovers, left = make(work, deadline), 0, 0.0, 0, work
    machine: Machine = "none"
    for now in range(deadline):
        if machine == "spot" and not trace.available[now]:
            machine = "none"
        view = Situation(
            machine, ready_in, trace.available[now], trace.price[now], left, deadline - now, trace.changeover
        )
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
