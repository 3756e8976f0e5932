"""`ups stop`: end a launch, and destroy its machines."""

import argparse

from flows.cli.arguments import add_target
from flows.cli.views.console import echo
from tasks.services.rental.launches import Launches
from tasks.services.rental.providers import registry
from tasks.services.rental.stopping import stop


def add(parser: argparse.ArgumentParser) -> None:
    """Which launch."""
    add_target(parser, registry.names())


def run(arguments: argparse.Namespace) -> int:
    """End it, and say what it cost."""
    launches = Launches(arguments.run_dir, arguments.provider or "")
    known = launches.find(arguments.target, alive=True)
    named = arguments.target if known.journal is None and known.run_id in (arguments.target or "") else None
    stopped = stop(known, named or known.launch.run, launches.provider_of(known))
    machines = ", ".join(map(str, stopped.machines)) or "none"
    echo(f"Stopped: run {stopped.run}{f', {stopped.controller}' if stopped.controller else ''}")
    echo(f"Destroyed: {machines}")
    echo("Spent: not known here" if stopped.usd is None else f"Spent: {stopped.usd:.2f} USD")
    resume = f"ups launch --resume-from-wandb {stopped.run} --resume-mode must"
    echo(f"To go on later, with the same --config and --set: {resume}")
    return 0
