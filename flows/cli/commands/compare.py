"""`ups compare`: the figures of several runs beside each other."""

import argparse
from pathlib import Path

from flows.cli.views.compare import comparison
from flows.cli.views.console import echo
from tasks.services.stages.runs import evaluated_run


def add(parser: argparse.ArgumentParser) -> None:
    """The runs."""
    text = "directories of runs that were evaluated"
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Print a column for each config, its seeds together, and below what the configs differ in."""
    echo(comparison([evaluated_run(path) for path in arguments.runs]))
    return 0
