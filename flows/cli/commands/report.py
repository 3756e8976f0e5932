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
    add_path(parser, "--run-dir", "folder of checkpoints/ and reports/", Path(), metavar="DIR")


def run(arguments: argparse.Namespace) -> int:
    """Render it, and print its path."""
    from tasks.services.stages.reporting import write_report

    run = RunDir.of(arguments.run_dir, Path("checkpoints"))
    History(run).warn_of_strange(read_status(run.status))
    echo(f"Report: {write_report(run)}")
    return 0
