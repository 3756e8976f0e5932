"""`ups compare`: the figures of several runs beside each other."""

import argparse
from pathlib import Path

from flows.cli.arguments import add_path, require_writable
from flows.cli.views.compare import comparison, comparison_tables
from flows.cli.views.console import echo
from tasks.services.stages.runs import evaluated_run
from ups_models.files import write_text


def add(parser: argparse.ArgumentParser) -> None:
    """The runs."""
    text = "directories of runs that were evaluated"
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=text)
    add_path(parser, "--html", "also write the tables as a page")


def run(arguments: argparse.Namespace) -> int:
    """Print a column for each config, its seeds together, and below what the configs differ in."""
    runs = [evaluated_run(path) for path in arguments.runs]
    if arguments.html is not None:
        require_writable(arguments.html)
    echo(comparison(runs))
    if arguments.html is not None:
        from ups_models.report.html import render_tables

        write_text(arguments.html, render_tables("Runs beside each other", comparison_tables(runs)))
        echo(f"Page: {arguments.html}")
    return 0
