"""`ups report`: render reports/report.html again."""

import argparse
from pathlib import Path

from flows.cli.arguments import add_path
from flows.cli.views.console import echo
from tasks.services.run.paths import RunDir


def add(parser: argparse.ArgumentParser) -> None:
    """The run."""
    add_path(parser, "--run-dir", "folder of checkpoints/ and reports/", Path(), metavar="DIR")


def run(arguments: argparse.Namespace) -> int:
    """Render it, and print its path."""
    from tasks.services.stages.evaluating import write_report

    echo(f"Report: {write_report(RunDir.of(arguments.run_dir, Path('checkpoints')))}")
    return 0
