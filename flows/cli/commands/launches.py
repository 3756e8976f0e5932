"""`ups launches`: list what was launched."""

import argparse
from pathlib import Path

from flows.cli.arguments import add_path, require_folder
from flows.cli.views.console import echo
from flows.cli.views.launches import launch_table
from tasks.services.rental.fleet import LABEL
from tasks.services.rental.launches import Launches, progress_of
from tasks.services.rental.provider import Instance
from tasks.services.rental.providers import registry
from ups_models.errors import UPSError


def add(parser: argparse.ArgumentParser) -> None:
    """Where journals are, and who is asked for machines beside them."""
    add_path(
        parser, "--run-dir", "folder whose journals, and those up to two folders below, are read", Path(), metavar="DIR"
    )
    text = "who is asked for machines that no journal here knows (default: %(default)s)"
    parser.add_argument("--provider", choices=registry.names(), default=registry.DEFAULT, help=text)


def run(arguments: argparse.Namespace) -> int:
    """Print the table; a provider that cannot be asked is named below it."""
    require_folder(arguments.run_dir)
    launches, listed, remark = Launches(arguments.run_dir), list[Instance](), ""
    try:
        listed = registry.provider_for(arguments.provider, arguments.run_dir).list_instances(LABEL)
    except UPSError as error:
        remark = f"\n{arguments.provider} could not be asked for machines that are not in a journal here: {error}"
    rows = [(known, progress_of(known) if known.is_open else None) for known in launches.everywhere(listed)]
    echo(launch_table(rows) + remark)
    return 0
