"""`ups runs`: list the runs below a folder."""

import argparse
import time
from pathlib import Path

from flows.cli.views.console import echo
from flows.cli.views.runs import run_table
from tasks.services.stages.runs import runs_below


def add(parser: argparse.ArgumentParser) -> None:
    """Where to look."""
    text = "folder that holds runs (default: %(default)s)"
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), metavar="FOLDER", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Print a line each: how far, how good, how old."""
    echo(run_table(runs_below(arguments.folder), arguments.folder, time.time()))
    return 0
