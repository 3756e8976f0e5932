"""`ups report`: render reports/report.html again."""

import argparse
from pathlib import Path

from flows.cli.arguments import add_path
from flows.cli.views.console import echo
from tasks.services.run.history import History
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status


def add(parser: argparse.ArgumentParser) -> None:
    """The run."""
    parser.add_argument("named", nargs="?", type=Path, metavar="RUN", help="directory of the run (default: --run-dir)")
    add_path(parser, "--run-dir", "the same", Path(), metavar="DIR")


def run(arguments: argparse.Namespace) -> int:
    """Render it, and print its path."""
    from tasks.services.stages.reporting import write_report

    run = RunDir.of(arguments.named or arguments.run_dir, Path("checkpoints"))
    History(run).warn_of_strange(read_status(run.status))
    echo(f"Report: {write_report(run)}")
    return 0
