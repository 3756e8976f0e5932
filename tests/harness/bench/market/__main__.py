"""`make bench-market`: what policies pay for a deadline, for each availability and slack, beside the least there is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from harness.bench.market.baselines import Greedy, OnDemand, UniformProgress
from harness.bench.market.optimum import optimum
from harness.bench.market.product import ExpectedCost
from harness.bench.market.replay import Outcome, Policy, replay
from harness.bench.market.traces import AVAILABILITIES, SLACKS, WORK_H, trace
from tasks.services.rental.choosing.policy import TICK_H

POLICIES: Mapping[str, Callable[[int, int], Policy]] = {
    "on demand": OnDemand,
    "greedy": Greedy,
    "uniform progress": UniformProgress,
    "expected cost": ExpectedCost,
}
MOST_OVER_OPTIMUM, MOST_OF_GREEDYS_GAP = 1.25, 0.5


@dataclass(frozen=True)
class Cell:
    """What one policy came to over all traces of a cell, beside the optimum of each."""

    policy: str
    outcomes: list[Outcome]
    least: list[float]

    @property
    def mean(self) -> float:
        """Mean cost in that of the optimum."""
        return float(np.mean([one.cost for one in self.outcomes]) / np.mean(self.least))

    @property
    def worst(self) -> float:
        """95th percentile of the ratio to the optimum of the same trace."""
        return float(
            np.percentile([one.cost / least for one, least in zip(self.outcomes, self.least, strict=True)], 95)
        )

    @property
    def gap(self) -> float:
        """Mean cost over the optimum, in hours on demand."""
        return float(np.mean([one.cost for one in self.outcomes]) - np.mean(self.least))

    @property
    def late(self) -> int:
        """How many deadlines were missed."""
        return sum(not one.in_time for one in self.outcomes)


def main() -> int:
    """Print a table; 1 where a deadline is missed, or the product's policy misses its bounds."""
    parser = argparse.ArgumentParser(prog="harness.bench.market", description=__doc__)
    parser.add_argument("--traces", type=int, default=1000, help="so many, a third for each availability")
    given = parser.parse_args()
    wrong = []
    for availability in AVAILABILITIES:
        for slack in SLACKS:
            cells = {cell.policy: cell for cell in _cells(availability, slack, given.traces // len(AVAILABILITIES))}
            print(f"availability {availability:g}, deadline {slack:g} x the work", flush=True)
            for cell in cells.values():
                found = _faults(cell, cells["greedy"])
                print(
                    f"  {cell.policy:<17} mean {cell.mean:5.3f}  95 % {cell.worst:5.3f}  gap {cell.gap:6.3f} h  "
                    f"late {cell.late}  {'; '.join(found)}",
                    flush=True,
                )
                wrong += [f"{cell.policy}: {fault}" for fault in found if cell.policy == "expected cost"]
    print(f"{len(wrong)} bounds missed")
    return int(bool(wrong))


def _cells(availability: float, slack: float, traces: int) -> Iterator[Cell]:
    work = round(WORK_H / TICK_H)
    deadline = round(slack * work)
    markets = [trace(seed, availability, deadline) for seed in range(traces)]
    least = [optimum(market, work, deadline) for market in markets]
    for name, make in POLICIES.items():
        yield Cell(name, [replay(market, work, deadline, make) for market in markets], least)


def _faults(cell: Cell, greedy: Cell) -> list[str]:
    found = [f"{cell.late} deadlines missed"] if cell.late else []
    found += [f"mean over {MOST_OVER_OPTIMUM} x the optimum"] if cell.mean > MOST_OVER_OPTIMUM else []
    found += ["gap over half of greedy's"] if cell.gap > MOST_OF_GREEDYS_GAP * greedy.gap else []
    return found


if __name__ == "__main__":
    sys.exit(main())
