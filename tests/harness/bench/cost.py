"""What a training step of the operator costs for each grid point, in one and in two dimensions and as grids grow.

    make bench-cost ARGS="--steps 8"

Every case is a process of its own on one thread: CPU seconds of a step, and how far the steps raise the process's peak
memory. Grids grow with their tokens (patches keep their size); the last column is the exponent of the seconds against
the row before, 1 where cost is linear in the points.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import torch

from harness.bench.scale import data_for
from ups_models.config.schema import PipelineConfig
from ups_models.stages.registry import STAGES
from ups_models.training.state import start_state
from ups_models.training.steps import Steps

WIDTH, BATCH_POINTS, WARM = 32, 65536, 2
"""A batch has so many points in all, on every grid."""


@dataclass(frozen=True)
class Case:
    """A problem on a grid of so many points along each axis, with so many tokens."""

    problem: str
    points: int
    tokens: int
    modes: int

    @property
    def dimensions(self) -> int:
        """Of space."""
        return 2 if self.problem.endswith("2d") else 1

    @property
    def n_points(self) -> int:
        """Of a field."""
        return int(self.points**self.dimensions)


SWEEPS: dict[str, tuple[Case, ...]] = {
    "1D, patches of 8": tuple(Case("burgers1d", 8 * n, n, 9) for n in (16, 32, 64, 128, 256)),
    "2D, patches of 4 x 4": tuple(Case("kolmogorov2d", 4 * n, n, 5) for n in (8, 16, 32)),
}
PAIR = ("1D 256", Case("burgers1d", 256, 32, 9)), ("2D 64 x 64", Case("kolmogorov2d", 64, 16, 5))


@dataclass(frozen=True)
class Cost:
    """Of a training step: CPU seconds, and bytes of memory beyond what was there before."""

    seconds: float
    memory: float
    n_points: int

    @property
    def per_point(self) -> tuple[float, float]:
        """Nanoseconds and bytes for each point of the batch."""
        return 1e9 * self.seconds / self.n_points, self.memory / self.n_points


def main() -> None:
    """Measure every case, and print the tables."""
    parser = argparse.ArgumentParser(prog="bench-cost", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(asdict(measure(Case(**json.loads(arguments.case)), arguments.steps))))
        return
    for title, cases in SWEEPS.items():
        print(sweep(title, cases, arguments.steps), flush=True)
    (one_name, one), (two_name, two) = ((name, in_a_process(case, arguments.steps)) for name, case in PAIR)
    for what, first, second in zip(("ns", "bytes"), one.per_point, two.per_point, strict=True):
        print(f"{what} a point and step: {one_name} {first:.0f}, {two_name} {second:.0f}, ratio {second / first:.2f}")


def sweep(title: str, cases: tuple[Case, ...], steps: int) -> str:
    """One table: grids that grow."""
    lines = [f"### {title}, width {WIDTH}", "", "| points of a field | batch | ns a point | bytes a point | exponent |"]
    lines.append("|---|---|---|---|---|")
    before: tuple[Case, Cost] | None = None
    for case in cases:
        cost = in_a_process(case, steps)
        grew = "" if before is None else f"{_exponent(before, (case, cost)):.2f}"
        nanoseconds, memory = cost.per_point
        lines.append(f"| {case.n_points} | {batch_of(case)} | {nanoseconds:.0f} | {memory:.0f} | {grew} |")
        before = case, cost
    return "\n".join(lines) + "\n"


def batch_of(case: Case) -> int:
    """Rows of a batch."""
    return max(1, BATCH_POINTS // case.n_points)


def in_a_process(case: Case, steps: int) -> Cost:
    """The case, measured where nothing else was."""
    command = [sys.executable, "-m", "harness.bench.cost", "--steps", str(steps), "--case", json.dumps(asdict(case))]
    return Cost(**json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def measure(case: Case, steps: int) -> Cost:
    """The cost of a step in this process, which has done nothing else."""
    torch.set_num_threads(1)
    cfg = PipelineConfig.model_validate(
        {
            "data": {"problem": case.problem, "points": case.points},
            "latent": {"dim": 4, "tokens": case.tokens},
            "operator": {"width": WIDTH, "blocks": 3, "codec_blocks": 1, "modes": case.modes, "reencode_every": 1},
            "denoiser": {"modes": case.modes, "scale_groups": 4},
            "stages": {"operator": {"unroll": [1], "batch_size": batch_of(case), "min_batch_size": 1}},
        }
    )
    stage, device, data = STAGES["operator"], torch.device("cpu"), data_for(cfg, "operator")
    state, training = start_state(stage, cfg, data, {}, device), Steps(stage, cfg, data, {}, device)
    before = _peak()
    for _ in range(WARM):
        training.take(state)
    began = time.process_time()
    for _ in range(steps):
        training.take(state)
    return Cost((time.process_time() - began) / steps, _peak() - before, batch_of(case) * case.n_points)


def _peak() -> float:
    """Bytes."""
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _exponent(before: tuple[Case, Cost], now: tuple[Case, Cost]) -> float:
    (smaller, less), (larger, more) = before, now
    ratio = (more.per_point[0] * larger.n_points) / (less.per_point[0] * smaller.n_points)
    return math.log(ratio) / math.log(larger.n_points / smaller.n_points)


if __name__ == "__main__":
    main()
