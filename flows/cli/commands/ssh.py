"""`ups ssh`: log in to a rented machine."""

import argparse
import shutil
import subprocess
from pathlib import Path

from flows.cli.arguments import add_path, add_place
from flows.cli.views.console import echo
from tasks.services.rental.launches import Launches, machine_of
from tasks.services.rental.logins import FOLDER, address_of, in_words, ssh_command
from tasks.services.rental.provider import Provider
from tasks.services.rental.providers import registry
from ups_models.errors import BadInput, UPSError

NOT_CONNECTED = 255


def add(parser: argparse.ArgumentParser) -> None:
    """Which machine, and with which key."""
    text = "instance to log in to; by default the newest of what was launched from --run-dir"
    parser.add_argument("instance", nargs="?", metavar="INSTANCE", help=text)
    add_place(parser, registry.names())
    add_path(parser, "--identity", "private key to log in with (default: ssh's own choice)")
    parser.add_argument("--print", action="store_true", help="print the command, and do not run it")


def run(arguments: argparse.Namespace) -> int:
    """Print the command, and run it."""
    launches = Launches(arguments.run_dir, arguments.provider or "")
    instance_id, folder, name, provider = _machine(launches, arguments.instance)
    address = address_of(provider, name, instance_id)
    command = ssh_command(address, instance_id, folder, arguments.identity)
    echo(in_words(command))
    if arguments.print:
        return 0
    if shutil.which("ssh") is None:
        raise BadInput("ssh: is not installed here; install OpenSSH's client, or copy the command above")
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    code = subprocess.call(command)
    if code == NOT_CONNECTED:
        raise UPSError(
            f"instance {instance_id}: ssh could not log in; the account must know your public key before the machine "
            "is rented, and --identity names the private one"
        )
    return code


def _machine(launches: Launches, instance_id: str | None) -> tuple[str, Path, str, Provider]:
    """The instance, where its host's key is kept, and its provider. Raises BadInput."""
    known = launches.find(instance_id)
    machine = machine_of(known, instance_id)
    if machine is None or machine.id is None or machine.destroyed_at is not None:
        raise BadInput(f"run {known.launch.run}: no machine of it is left to log in to; `ups launches` lists them")
    return machine.id, launches.folder_of(known), launches.provider_name(known), launches.provider_of(known)
