"""Order and policy: which task runs, when, and what a person may ask for."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("flows", "tasks", "ups_models")
"""Ours, and the names of their loggers."""


def shipped(name: str | Path) -> Path:
    """A file that we ship, such as `configs/smoke.yaml`: beside the packages of a checkout, inside those of a wheel."""
    packed = ROOT / "flows" / "shipped"
    return (packed if packed.is_dir() else ROOT) / name
