"""`ups report`: render reports/report.html again."""

import argparse

from flows.cli.arguments import add_run, run_named
from flows.cli.views.console import echo
from tasks.services.run.history import History
from tasks.services.run.status import read_status


def add(parser: argparse.ArgumentParser) -> None:
    """The run."""
    add_run(parser, "--run-dir")


def run(arguments: argparse.Namespace) -> int:
    """Render it, and print its path."""
    from tasks.services.stages.reporting import write_report

    run = run_named(arguments)
    History(run).warn_of_strange(read_status(run.status))
    echo(f"Report: {write_report(run)}")
    return 0
