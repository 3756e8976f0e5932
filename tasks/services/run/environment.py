"""The environment: the one place that reads it, and the names of the variables that are ours."""

import os
from collections.abc import Iterable
from pathlib import Path

CODE, GENERATION, RUN, LOG, RUNS = "UPS_CODE", "UPS_GENERATION", "UPS_RUN", "UPS_LOG", "UPS_RUNS"
"""Ours: version of the code and machine generation on a rented machine, its W&B run, the level of the log, and where
the run directories of a worker lie."""
DATA = "UPS_DATA"
"""Where several runs keep the data that they solve for or download, if not each in its own data/."""
CUDA, DEVICE = "UPS_CUDA", "UPS_DEVICE"
"""On a rented machine: the newest CUDA that its driver supports, as its offer says, and what the job trains on."""
DESTROY = "UPS_DESTROY"
"""On a rented machine whose market has a command for it: what ends the machine from within."""


def get(name: str, default: str = "") -> str:
    """A variable; the default where it is not set or empty."""
    return os.environ.get(name) or default


def is_set(name: str) -> bool:
    """Whether a variable is set to something."""
    return bool(os.environ.get(name))


def path(name: str, default: str) -> Path:
    """A path, with ~ spelled out."""
    return Path(get(name, default)).expanduser()


def number(name: str) -> int | None:
    """A whole number; None where the variable holds none."""
    text = get(name)
    return int(text) if text.isdecimal() else None


def world() -> tuple[int, int]:
    """Rank and number of the processes that train together, as torchrun sets them."""
    return number("RANK") or 0, number("WORLD_SIZE") or 1


def selected(names: Iterable[str]) -> dict[str, str]:
    """Those of the variables that are set."""
    return {name: os.environ[name] for name in names if name in os.environ}


def names(prefix: str, parts: Iterable[str]) -> list[str]:
    """Names of the variables that begin so and hold one of the parts."""
    parts = tuple(parts)
    return [name for name in os.environ if name.startswith(prefix) and any(part in name for part in parts)]


def child(**more: str) -> dict[str, str]:
    """The environment of a child process: this one's, and more."""
    return {**os.environ, **more}


def put(name: str, value: str, *, replace: bool = True) -> None:
    """Set a variable for this process and its children; what is there stays unless `replace`."""
    if replace or name not in os.environ:
        os.environ[name] = value


def drop(*names: str) -> None:
    """Remove variables, where they are set."""
    for name in names:
        os.environ.pop(name, None)
