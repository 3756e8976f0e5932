"""`ups destroy`: destroy rented machines."""

import argparse

from flows.cli.commands import instances
from flows.cli.views.console import agreed, echo
from flows.cli.views.machines import instance_table
from tasks.services.rental.launches import Launches
from tasks.services.rental.stopping import destroy_each
from ups_models.errors import BadInput


def add(parser: argparse.ArgumentParser) -> None:
    """Which machines."""
    parser.add_argument("ids", nargs="*", default=[], metavar="ID", help="instances to destroy")
    parser.add_argument("--all-mine", action="store_true", help="every instance of ours")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    instances.add(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show them, ask, and destroy them."""
    if not (arguments.all_mine or arguments.ids):
        raise BadInput("name an instance, or --all-mine; `ups instances` lists them")
    launches = Launches(arguments.run_dir, arguments.provider or "")
    ours = launches.machines(arguments.ids)
    chosen = [(provider, one) for provider, one in ours if arguments.all_mine or one.id in arguments.ids]
    strangers = sorted(set(arguments.ids) - {one.id for _, one in ours})
    if strangers:
        raise BadInput(f"instance {strangers[0]}: is none of ours; `ups instances` lists them")
    echo(instance_table([one for _, one in chosen]))
    if not (arguments.yes or (chosen and agreed("Destroy?"))):
        return 0

    def note(instance_id: str) -> None:
        echo(f"{instance_id}: destroyed")
        launches.note_destroyed(instance_id)

    destroy_each(chosen, note)
    return 0
