"""`ups instances`: list the machines that we rent."""

import argparse
from pathlib import Path

from flows.cli.arguments import add_path
from flows.cli.views.console import echo
from flows.cli.views.machines import instance_table, our_instances
from tasks.services.rental.providers import registry


def add(parser: argparse.ArgumentParser) -> None:
    """Which machines are meant."""
    text = "who rents them out (default: %(default)s)"
    parser.add_argument("--provider", choices=registry.names(), default=registry.DEFAULT, help=text)
    add_path(parser, "--run-dir", "folder of local instances", Path(), metavar="DIR")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    echo(instance_table(our_instances(arguments.provider, arguments.run_dir)))
    return 0
