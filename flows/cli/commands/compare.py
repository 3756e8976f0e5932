"""`ups compare`: the figures of several runs beside each other."""

import argparse
from pathlib import Path

from flows.cli.arguments import add_path, require_writable
from flows.cli.views.compare import comparison, comparison_tables
from flows.cli.views.console import echo
from tasks.services.stages import leaderboard
from tasks.services.stages.runs import RunSummary, evaluated_run, runs_below
from ups_models.errors import BadInput
from ups_models.files import write_text


def add(parser: argparse.ArgumentParser) -> None:
    """The runs."""
    text = "directories of runs that were evaluated, or of a sweep, for all of its runs"
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=text)
    add_path(parser, "--html", "also write the tables as a page")


def run(arguments: argparse.Namespace) -> int:
    """Print a column for each config, its seeds together, and below what the configs differ in."""
    runs = [run for path in arguments.runs for run in _runs_of(path)]
    if arguments.html is not None:
        require_writable(arguments.html)
    echo(comparison(runs))
    if arguments.html is not None:
        from ups_models.report.html import render_tables

        write_text(arguments.html, render_tables("Runs beside each other", comparison_tables(runs)))
        echo(f"Page: {arguments.html}")
    return 0


def _runs_of(path: Path) -> list[RunSummary]:
    """The run in a directory, or those of a sweep that were evaluated. Raises BadInput where there is none."""
    if not (path / leaderboard.FILE).is_file():
        return [evaluated_run(path)]
    found = [run for run in runs_below(path) if run.result is not None]
    if not found:
        raise BadInput(f"{path}: no run of this sweep was evaluated yet")
    return found
