"""`ups sweep`: train every point of a grid or a list with several seeds, and compare them."""

import argparse
import signal
from pathlib import Path
from types import FrameType
from typing import NoReturn

from flows.cli.arguments import add_path, count
from flows.cli.views.console import echo
from flows.cli.views.tables import aligned
from flows.requests.sweep import Trial, find_sweep, trials_of
from flows.sweep import leaderboard_of, train_here
from tasks.services.stages.leaderboard import FILE, LeaderboardRow, table_of, write_leaderboard
from ups_models.errors import Preempted, UPSError
from ups_models.files import write_text

HERE = "local"
STOPPED = "stopped by a signal, and what was done is kept; the same command goes on with the sweep"


def add(parser: argparse.ArgumentParser) -> None:
    """What is swept, how often, where, and by whom."""
    parser.add_argument("sweep", type=Path, metavar="FILE", help="config, and its grid or list of points (YAML)")
    parser.add_argument("--seeds", type=count, default=1, metavar="N", help="seeds 0 to N - 1 (default: %(default)s)")
    text = "local: one after the other in this process; or a work pool, whose workers train (default: %(default)s)"
    parser.add_argument("--workers", default=HERE, metavar="local|POOL", help=text)
    add_path(parser, "--out", "folder of the runs (default: runs/sweeps/NAME)", metavar="DIR")


def run(arguments: argparse.Namespace) -> int:
    """Train what is not done, print the leaderboard; 1 where a point has no result."""
    path = find_sweep(arguments.sweep)
    root = arguments.out or Path("runs") / "sweeps" / path.stem
    trials = trials_of(path, root, range(arguments.seeds))
    signal.signal(signal.SIGTERM, _stop)
    try:
        failures = _train(trials, root, arguments.workers)
    except KeyboardInterrupt:
        raise Preempted(STOPPED) from None
    rows = leaderboard_of(trials, failures)
    table = table_of(rows)
    echo("\n".join(aligned([table.columns, *table.rows])))
    echo(f"Leaderboard: {_written(root, rows)}")
    if arguments.workers != HERE:
        from flows.prefect.sweep import show_leaderboard

        show_leaderboard(root, rows)
    if any(one.missing for one in rows):
        raise UPSError("some points have no result, see the last column; the same command tries them again")
    return 0


def _written(root: Path, rows: list[LeaderboardRow]) -> Path:
    """As JSON and as a page, which is returned."""
    from ups_models.report.html import render_tables

    write_leaderboard(root / FILE, rows)
    page = root / "leaderboard.html"
    write_text(page, render_tables(f"Sweep {root.name}", (table_of(rows),)))
    return page


def _train(trials: list[Trial], root: Path, workers: str) -> dict[str, str]:
    if workers == HERE:
        return dict(train_here(trials, root))
    from flows.prefect.sweep import train_by_workers

    return train_by_workers(trials, root, workers)


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Preempted(STOPPED)
