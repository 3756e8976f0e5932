"""`ups logs`: show what a rented machine writes."""

import argparse

from flows.cli.arguments import add_target, positive
from flows.cli.views.console import echo
from tasks.services.rental.launches import Launches, machine_of
from tasks.services.rental.logs import FOLLOW_S, MachineLogs
from tasks.services.rental.providers import registry


def add(parser: argparse.ArgumentParser) -> None:
    """Which machine, and whether to stay."""
    add_target(parser, registry.names())
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on until the launch ends, machine after machine"
    )
    text = "with -f, look this often, in seconds (default: %(default)g)"
    parser.add_argument("--every-s", type=positive, default=FOLLOW_S, metavar="EVERY_S", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    launches = Launches(arguments.run_dir, arguments.provider or "")
    known = launches.find(arguments.target)
    logs, machine = MachineLogs(launches, known, launches.provider_of(known)), machine_of(known, arguments.target)
    if not arguments.follow:
        echo(logs.require_text(machine).rstrip("\n"))
        return 0
    only = machine if machine is not None and str(machine.id) == arguments.target else None
    for line in logs.follow(only, every_s=arguments.every_s):
        echo(line)
    return 0
