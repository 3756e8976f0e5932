"""`ups cost`: what rented machines have cost."""

import argparse
import time
from pathlib import Path
from typing import get_args

from flows.cli.arguments import add_path, require_folder
from flows.cli.views.console import echo
from flows.cli.views.launches import cost_table
from tasks.services.rental.costs import By, costs_of, total, totals
from tasks.services.rental.credit import credit_of
from tasks.services.rental.launches import Launches
from tasks.services.rental.providers import registry
from ups_models.errors import UPSError


def add(parser: argparse.ArgumentParser) -> None:
    """Which journals, and how it is divided."""
    text = "folder whose journals, and those up to two folders below, are read"
    add_path(parser, "--run-dir", text, Path(), metavar="DIR")
    text = "a line for each (default: %(default)s)"
    parser.add_argument("--by", choices=get_args(By), default="launch", help=text)
    text = "whose account is asked for its credit (default: %(default)s)"
    parser.add_argument("--provider", choices=registry.names(), default=registry.DEFAULT, help=text)


def run(arguments: argparse.Namespace) -> int:
    """Print the table, and what the account has left."""
    require_folder(arguments.run_dir)
    costs = costs_of(Launches(arguments.run_dir).here(), time.time())
    echo(cost_table(arguments.by, [*totals(costs, arguments.by), total(costs)]))
    try:
        credit = credit_of(registry.provider_for(arguments.provider, arguments.run_dir))
    except UPSError as error:
        echo(f"Credit: {arguments.provider} could not be asked: {error}")
        return 0
    echo(f"Credit: {'not told' if credit is None else f'{credit:.2f} USD'} by {arguments.provider}")
    return 0
