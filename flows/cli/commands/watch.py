"""`ups watch`: restart dead runs that the Prefect server's automations missed."""

import argparse

from flows.cli.arguments import positive
from flows.cli.views.console import echo
from flows.prefect.server import quiet_prefect


def add(parser: argparse.ArgumentParser) -> None:
    """How often, and how soon."""
    text = "seconds between two checks (default: %(default)g)"
    parser.add_argument("--every", type=positive, default=30.0, metavar="SECONDS", help=text)
    text = "seconds that an automation may take (default: %(default)g)"
    parser.add_argument("--patience", type=positive, default=60.0, metavar="SECONDS", help=text)
    parser.add_argument("--once", action="store_true", help="check once, and end")


def run(arguments: argparse.Namespace) -> int:
    """Watch until it is stopped."""
    quiet_prefect()
    from flows.prefect.watch import watch

    watch(echo, every_s=arguments.every, patience_s=arguments.patience, once=arguments.once)
    return 0
