"""The Burgers solver beside the exact solution of Cole and Hopf, on grids of two sizes: `make bench-solvers`."""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.bench.problems import ROOT, machine
from tasks.services.run.code_version import code_version
from tasks.services.stages.result_rows import ResultRow, write_row
from ups_models.evaluation.metrics import nrmse
from ups_models.problems import burgers1d
from ups_models.problems.initial import random_waves

KEPT = ROOT / "docs" / "results" / "solvers" / "burgers1d-seed0.json"
GRIDS, FINE = (512, 1024), 4096
ROWS, NU, FRAMES = 64, 0.01, (1, 2, 5, 10, 20, 40)
TIMES = [0.05 * i for i in range(41)]
PLACES = 32
"""Points of the grid at which both are compared."""
GOOD = 1e-4


def main() -> None:
    """Measure, print the table, and keep the row where that is wanted."""
    parser = argparse.ArgumentParser(prog="bench-solvers", description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, help=f"keep the figures as a row in this file ({KEPT.relative_to(ROOT)})")
    arguments = parser.parse_args()
    figures: dict[str, float] = {}
    for points in GRIDS:
        errors = errors_on(points)
        figures[_name(points, "median")] = float(errors.median())
        figures[_name(points, f"part below {GOOD:g}")] = float((errors < GOOD).double().mean())
        figures[_name(points, "worst")] = float(errors.max())
    print(solver_table(figures), end="")
    if arguments.to is not None:
        row = ResultRow(command="make bench-solvers", commit=code_version(), machine=machine(), figures=figures)
        write_row(arguments.to, row)


def solver_table(figures: Mapping[str, float]) -> str:
    """A line for each grid."""
    names = ("median", f"part below {GOOD:g}", "worst")
    lines = [f"| points | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [
        f"| {points} | {' | '.join(f'{figures[_name(points, name)]:.3g}' for name in names)} |" for points in GRIDS
    ]
    return "\n".join(lines) + "\n"


def errors_on(points: int) -> Tensor:
    """The largest nRMSE over the times, of every initial field, (N,), solved on so many points."""
    u = burgers1d.solve(random_waves(ROWS, points, np.random.default_rng(0)), NU, TIMES)
    places = slice(points // PLACES // 2, None, points // PLACES)
    fields, x = random_waves(ROWS, FINE, np.random.default_rng(0)), centres(points)[places]
    exact = torch.stack([torch.stack([cole_hopf(row, NU, TIMES[frame], x) for frame in FRAMES]) for row in fields])
    return nrmse(u[:, FRAMES, places], exact).amax(1)


def centres(n: int) -> Tensor:
    """Of the cells of the unit interval, (n,) float64."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def cole_hopf(u0: Tensor, nu: float, t: float, x: Tensor) -> Tensor:
    """Exact Burgers solution at time t and points x (P,), of u0 at the cell centres of a fine grid (M,).

    With d = nu/pi, U' = u0 - mean and x' = x - mean t, u = mean + <(x' - y)/t> where y has the weight
    exp(-(x' - y)^2/(4 d t) - U(y)/(2 d)) (Hopf 1950, eq. 4). The trapezoidal rule converges exponentially here;
    softmax keeps the exponentials in range.
    """
    n, d = len(u0), nu / math.pi
    mean = u0.mean()
    modes = torch.fft.rfft(u0 - mean)
    k = 2 * math.pi * torch.arange(len(modes), dtype=torch.float64)
    k[0] = 1.0
    potential = torch.fft.irfft(torch.where(k > 1, modes / (1j * k), 0), n=n)
    reach = math.ceil(math.sqrt(2 * t * float(potential.max() - potential.min())) + 9 * math.sqrt(2 * d * t))
    y = torch.cat([centres(n) + shift for shift in range(-reach, reach + 2)])
    distance = ((x - mean * t) % 1)[:, None] - y
    weight = torch.softmax(-(distance**2) / (4 * d * t) - potential.repeat(2 * reach + 2) / (2 * d), dim=1)
    return mean + (weight * distance).sum(dim=1) / t


def _name(points: int, what: str) -> str:
    return f"{points} points, nRMSE, {what}"


if __name__ == "__main__":
    main()
