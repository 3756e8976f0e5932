"""`ups deploy`: create or update work pool, deployments and automations on the Prefect server."""

import argparse

from flows.cli.arguments import positive
from flows.cli.views.console import echo
from flows.prefect.server import quiet_prefect


def add(parser: argparse.ArgumentParser) -> None:
    """When runs are restarted or marked as crashed, and who is notified."""
    parser.add_argument("--dry-run", action="store_true", help="say what would be created")
    text = "seconds from a crash to the next run of the chain (default: %(default)g)"
    parser.add_argument("--retry-after", type=positive, default=10.0, metavar="SECONDS", help=text)
    text = "notification block TYPE/NAME through which failures are reported"
    parser.add_argument("--notify", metavar="BLOCK", help=text)
    text = "seconds without a heartbeat after which a run has crashed (default: %(default)g)"
    parser.add_argument("--vanished-after", type=positive, default=90.0, metavar="SECONDS", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Deploy, and print what was created."""
    quiet_prefect()
    from flows.prefect.deploy import deploy

    deploy(
        echo,
        dry_run=arguments.dry_run,
        retry_after_s=arguments.retry_after,
        heartbeat_timeout_s=arguments.vanished_after,
        notify=arguments.notify,
    )
    return 0
