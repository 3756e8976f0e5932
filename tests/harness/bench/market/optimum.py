"""The least that a trace can cost when all of it is known beforehand, by dynamic programming."""

import numpy as np
from numpy.typing import NDArray

from harness.bench.market.traces import Trace
from tasks.services.rental.choosing.policy import TICK_H


def optimum(trace: Trace, work: int, deadline: int) -> float:
    """In hours on demand: the clairvoyant's cost, under the rules of `replay`.

    A state is the machine, the ticks until it trains, and the work left; V[state][work] is the least cost from here.
    """
    ready = trace.changeover
    end = np.full(work + 1, np.inf)
    end[0] = 0.0
    none, spot, bought = end, [end] * (ready + 1), [end] * (ready + 1)
    for now in reversed(range(deadline)):
        kept = spot if now + 1 == deadline or trace.available[now + 1] else [none] * (ready + 1)  # taken away
        buy = [_step(bought, 1.0, ready_in) for ready_in in range(ready + 1)]
        bid = [_step(kept, trace.price[now], ready_in) for ready_in in range(ready + 1)]
        fresh = np.minimum(none, buy[ready])
        if trace.available[now]:
            fresh = np.minimum(fresh, bid[ready])
            spot = [np.minimum(fresh, one) for one in bid]
        bought = [np.minimum(fresh, one) for one in buy]
        none = fresh
    return float(none[work]) * TICK_H


def _step(after: list[NDArray[np.float64]], price: float, ready_in: int) -> NDArray[np.float64]:
    """A tick on a machine: one nearer to its first step, or one tick of work done."""
    cost = price + after[ready_in - 1] if ready_in else price + np.concatenate(([0.0], after[0][:-1]))
    cost[0] = 0.0
    return cost
