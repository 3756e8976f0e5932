"""What `ups data info` shows of a data file."""

from __future__ import annotations

import os
from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from flows.cli.views.console import echo
from ups_models.wording import plain

if TYPE_CHECKING:
    from ups_models.data.inspect import FileInfo

MEGABYTE = 1_000_000


def print_file_info(info: FileInfo) -> None:
    """Print its shape, each dataset's numbers, and what is wrong with them."""
    text = StringIO()
    console = Console(width=None if os.isatty(1) else 100, highlight=False, file=text)
    values = ", ".join(f"{name} {value}" for name, value in info.parameters.items()) or "no parameter"
    problem = info.problem or "names no problem (set data.problem)"
    console.print(f"{plain(info.path)}: {problem}, {info.n_samples} samples, {values}", markup=False)
    dt = f", {info.n_times} times, dt {info.dt:g}" if info.dt is not None else ""
    size = f"{info.size_bytes / MEGABYTE:.1f} MB, {info.layout}, grid {' x '.join(map(str, info.grid))}{dt}"
    console.print(f"{size}, channels {', '.join(info.channels)}{_boundaries(info.periodic)}", markup=False)
    table = Table("dataset", "shape", "dtype", "min", "max", "mean", "NaN", "Inf")
    for dataset in info.datasets:
        numbers = [f"{value:.4g}" for value in (dataset.min, dataset.max, dataset.mean)]
        shape = " x ".join(map(str, dataset.shape))
        table.add_row(dataset.name, shape, dataset.dtype, *numbers, str(dataset.n_nan), str(dataset.n_inf))
    console.print(table)
    console.print(f"duplicate trajectories: {info.n_duplicates}, NaN: {info.n_nan}, Inf: {info.n_inf}")
    echo(text.getvalue().rstrip("\n"))


def _boundaries(periodic: tuple[bool, ...] | None) -> str:
    if periodic is None:
        return ""
    return f", axes {' and '.join('periodic' if one else 'not periodic' for one in periodic)}"
