"""`ups instances`: list the machines that we rent."""

import argparse
from pathlib import Path

from flows.cli.arguments import add_path
from flows.cli.views.console import echo
from flows.cli.views.machines import instance_table
from tasks.services.rental.launches import Launches
from tasks.services.rental.providers import registry


def add(parser: argparse.ArgumentParser) -> None:
    """Which machines are meant."""
    text = f"who rents them out (default: those that the journals name, else {registry.DEFAULT})"
    parser.add_argument("--provider", choices=registry.names(), help=text)
    add_path(parser, "--run-dir", "folder of the journal, or above it", Path(), metavar="DIR")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    machines = Launches(arguments.run_dir, arguments.provider or "").machines()
    echo(instance_table([one for _, one in machines]))
    return 0
