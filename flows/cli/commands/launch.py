"""`ups launch`: train on rented machines, and destroy them afterwards."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from flows.cli.fields import add_fields, request_of
from flows.cli.runner import run_flow
from flows.cli.views.console import echo
from flows.cli.views.machines import plan_of
from flows.requests.launch import LaunchRequest
from flows.requests.launch_checks import is_new, require_found, require_sound
from tasks.services.rental.journal import Journal
from tasks.services.rental.notices import stopped
from ups_models.errors import Preempted


def add(parser: argparse.ArgumentParser) -> None:
    """The fields of the request, and how to carry it out."""
    add_fields(parser, LaunchRequest)
    parser.add_argument(
        "--on-demand", dest="interruptible", action="store_false", default=argparse.SUPPRESS, help="not --interruptible"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show offer, cost and script, refuse what a launch would; rent nothing"
    )
    parser.add_argument("--detach", action="store_true", help="continue in the background")


def run(arguments: argparse.Namespace) -> int:
    """Refuse what can be refused without a server, then import Prefect and run the flow."""
    request = request_of(LaunchRequest, arguments)
    if arguments.dry_run:
        echo(plan_of(request))
    require_sound(request)
    if arguments.dry_run:
        if (complete := require_found(request)) is not None:
            echo(f"Run {complete} is complete: nothing is rented for it")
        return 0
    if arguments.detach or is_new(request):
        plan_of(request)  # what is wrong is said here: somebody reads it, and no server was started for it
    if arguments.detach:
        return _detach(request.run_dir)
    try:
        trained = run_flow(_flow, request, plainly=_launch_plainly, stopped="")
    except Preempted:
        raise Preempted(stopped(Journal(request.journal_path))) from None
    echo(f"Trained: {trained}")
    return 0


def _flow() -> Any:
    from flows.remote import train_on_vast

    return train_on_vast


def _launch_plainly(request: LaunchRequest) -> str:
    from flows.remote import run_launch

    return str(run_launch(request))


def _is_detach(word: str) -> bool:
    """The flag, or a beginning of it that is no other's: argparse takes that as well."""
    return len(word) > len("--de") and "--detach".startswith(word)


def _detach(run_dir: Path) -> int:
    """Start the same command once more, in a session of its own."""
    run_dir.mkdir(parents=True, exist_ok=True)
    log_path = run_dir / "launch.log"
    with log_path.open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *(word for word in sys.argv[1:] if not _is_detach(word))],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    echo(f"Process {child.pid} continues in the background; its log: {log_path}")
    return 0
