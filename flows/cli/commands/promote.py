"""`ups promote`: an alias for the best run, in a registry file and in W&B; or who holds which, and why."""

import argparse
import logging
from pathlib import Path

from flows.cli.arguments import add_path
from flows.cli.views.console import echo
from flows.cli.views.tables import aligned
from tasks.services.stages.promotion import Candidate, lines_of, promote, read_registry
from tasks.services.tracking.protocols import TrackingUnavailable
from tasks.services.tracking.run_path import RunPath
from ups_models.config.schema import TrackingConfig
from ups_models.errors import BadInput

logger = logging.getLogger(__name__)

REGISTRY = Path("registry.json")
COLUMNS = ("when", "alias", "run", "promoted", "why")


def add(parser: argparse.ArgumentParser) -> None:
    """The run, and what it is to be called."""
    text = "directory of a run that was evaluated on test rows; without it the history of the registry is shown"
    parser.add_argument("named", nargs="?", type=Path, metavar="RUN", help=text)
    parser.add_argument("--alias", default="best", help="what the run is to be called (default: %(default)s)")
    add_path(parser, "--registry", "file that keeps the holders and every attempt", REGISTRY)


def run(arguments: argparse.Namespace) -> int:
    """Promote it and say why; a run that is not promoted ends with the reason, which is kept as well."""
    if arguments.named is None:
        history = read_registry(arguments.registry).history
        if not history:
            raise BadInput(f"{arguments.registry}: nobody was promoted yet; name a run: ups promote RUN")
        echo("\n".join(aligned([COLUMNS, *lines_of(history)])))
        return 0
    holder, before, reason = promote(arguments.named, arguments.alias, arguments.registry)
    echo(f"{holder.run} is {arguments.alias}: {reason}")
    if holder.wandb is not None:
        echo(f"W&B: {_in_wandb(holder.wandb, before, arguments.alias)}:{arguments.alias}")
    return 0


def _in_wandb(run: str, before: Candidate | None, alias: str) -> str:
    """Move the alias there; the set that has it now."""
    from tasks.services.tracking.store import WandbStore

    tracking = TrackingConfig()
    given = WandbStore(RunPath.parse(run, tracking), tracking).give_alias(alias)
    if before is not None and before.wandb is not None and before.wandb != run:
        try:
            WandbStore(RunPath.parse(before.wandb, tracking), tracking).take_alias(alias)
        except TrackingUnavailable as error:
            logger.warning("%s: it is there too until somebody removes it", error)
    return given.rpartition(":")[0]
