"""Tables of launches."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from flows.cli.views.tables import aligned
from tasks.services.rental.costs import Total
from tasks.services.rental.launches import Known
from tasks.services.tracking.protocols import RemoteProgress
from ups_models.wording import plain

MISSING = "-"
Row = tuple[Known, RemoteProgress | None]


def launch_table(rows: Sequence[Row]) -> str:
    """One line each: run, state, stage and step, newest machine, cost, and since when; below, what was decided."""
    if not rows:
        return "no launches"
    head = ("run", "state", "stage", "step", "machine", "USD", "since")
    cells = [head, *(_cells(known, progress) for known, progress in rows)]
    lines = aligned(cells)
    decided = [
        (known.launch.run, known.launch.decision) for known, _ in rows if known.is_open and known.launch.decision
    ]
    return "\n".join([*lines, *(f"{plain(run)} decided: {plain(why)}" for run, why in decided)])


def cost_table(by: str, rows: Sequence[Total]) -> str:
    """One line each: hours, GPU, disk, traffic, and all together, in USD."""
    names = [by, *(plain(row.name) for row in rows)]
    width = max(map(len, names))
    head = f"{by:<{width}}{'hours':>9}{'GPU':>10}{'disk':>10}{'traffic':>10}{'USD':>10}"
    lines = [
        f"{name:<{width}}{row.hours:>9.2f}{row.gpu_usd:>10.4f}{row.disk_usd:>10.4f}{row.traffic_usd:>10.4f}{row.usd:>10.4f}"
        for name, row in zip(names[1:], rows, strict=True)
    ]
    foot = "GPU at the agreed price; disk and traffic as the offer named them, traffic as the machine counts it"
    return "\n".join([head, *lines, foot])


def when(seconds: float) -> str:
    """A time in UTC, to the minute; - where it is not known."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}" if seconds else MISSING


def _cells(known: Known, progress: RemoteProgress | None) -> tuple[str, ...]:
    machine, launch = known.launch.newest, known.launch
    is_here = known.journal is not None
    shown = MISSING if machine is None or machine.destroyed_at is not None else str(machine.id or "ordered")
    return (
        plain(launch.run),
        known.state,
        (progress.stage if progress else "") or MISSING,
        str(progress.step) if progress and progress.stage else MISSING,
        shown,
        f"{launch.usd(time.time()):.2f}" if is_here else MISSING,
        when(launch.started_at),
    )
