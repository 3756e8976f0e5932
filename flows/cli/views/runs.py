"""Tables of runs."""

from collections.abc import Sequence
from pathlib import Path

from flows.cli.views.tables import aligned
from tasks.services.run.status import EVALUATIONS
from tasks.services.stages.runs import RunSummary
from ups_models.wording import plain

MISSING = "-"
UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def run_table(runs: Sequence[RunSummary], folder: Path, now: float) -> str:
    """One line each: path, problem, how far, main error, and age of the last record."""
    rows = [("run", "problem", "state", "error", "age"), *(_cells(one, folder, now) for one in runs)]
    about = "of the full evaluation, or of the small one"
    return "\n".join([*aligned(rows), f"error: rollout nRMSE, mean, {about} (of a steady prior alone: member nRMSE)"])


def _error(one: RunSummary) -> str:
    if one.error is None or one.result is None:
        return MISSING
    return f"{one.error:.4f}{' (small)' if one.result.name == EVALUATIONS[0] else ''}"


def age(seconds: float) -> str:
    """A duration in its largest unit, such as `3 h`."""
    unit, length = next(((unit, length) for unit, length in UNITS if seconds >= length), UNITS[-1])
    return f"{max(0, int(seconds // length))} {unit}"


def _cells(one: RunSummary, folder: Path, now: float) -> tuple[str, ...]:
    data = one.result.data if one.result is not None else None
    path = one.root.relative_to(folder) if one.root != folder else Path()
    return (
        plain(path),
        plain(data.family) if data is not None else MISSING,
        one.state,
        _error(one),
        age(now - one.touched_at),
    )
