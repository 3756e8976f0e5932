"""`ups deploy`: create or update work pool, deployments and automations on the Prefect server."""

import argparse
from pathlib import Path

from flows.cli.arguments import positive
from flows.cli.views.console import agreed, echo
from flows.prefect.server import quiet_prefect
from flows.requests.job import find_config
from ups_models.errors import BadInput


def add(parser: argparse.ArgumentParser) -> None:
    """When runs are restarted or marked as crashed, and who is notified."""
    parser.add_argument("--dry-run", action="store_true", help="say what would be created")
    text = "seconds from a crash to the next run of the chain (default: %(default)g)"
    parser.add_argument("--retry-after", type=positive, default=10.0, metavar="SECONDS", help=text)
    text = "notification block TYPE/NAME through which failures are reported"
    parser.add_argument("--notify", metavar="BLOCK", help=text)
    text = "seconds without a heartbeat after which a run has crashed (default: %(default)g)"
    parser.add_argument("--vanished-after", type=positive, default=90.0, metavar="SECONDS", help=text)
    text = "a config of your own: it gets a deployment that carries it, and the code that it names, to every worker"
    parser.add_argument("--config", type=Path, metavar="FILE", help=text)
    parser.add_argument("--name", help="of that deployment, and of its run directory (default: that of the file)")
    text = "let the active Prefect profile know our deployments by short names: `prefect deployment run train-pipeline`"
    parser.add_argument("--short-names", action="store_true", help=text)
    parser.add_argument("--yes", action="store_true", help="do not ask before the profile is changed")


def run(arguments: argparse.Namespace) -> int:
    """Deploy, and print what was created."""
    if arguments.name is not None and arguments.config is None:
        raise BadInput("--name: is that of a config's deployment; give --config too")
    quiet_prefect()
    from flows.prefect.deploy import deploy

    deploy(
        echo,
        dry_run=arguments.dry_run,
        retry_after_s=arguments.retry_after,
        heartbeat_timeout_s=arguments.vanished_after,
        notify=arguments.notify,
        config=find_config(arguments.config) if arguments.config is not None else None,
        name=arguments.name,
    )
    if arguments.short_names and not arguments.dry_run:
        _enable_short_names(asked=not arguments.yes)
    return 0


def _enable_short_names(*, asked: bool) -> None:
    from flows.prefect.short_names import active_profile, enable_short_names

    profile = active_profile()
    if asked and not agreed(f"Enable the plugin `ups` in your Prefect profile {profile}?"):
        echo(f"unchanged: Prefect profile {profile}")
        return
    enable_short_names()
    echo(f"updated: Prefect profile {profile}: `prefect deployment run train-pipeline` works in every directory")
