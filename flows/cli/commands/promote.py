"""`ups promote`: an alias for the best run, in a registry file and in W&B; or who holds which, and why."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from flows.cli.arguments import add_path, require_writable
from flows.cli.views.console import echo
from flows.cli.views.tables import aligned
from tasks.services.stages.promotion import lines_of, note_taken, promote, read_registry
from tasks.services.tracking.protocols import TrackingUnavailable
from tasks.services.tracking.run_path import RunPath
from ups_models.config.schema import TrackingConfig
from ups_models.errors import BadInput

if TYPE_CHECKING:  # W&B is imported only where a run is tracked
    from tasks.services.tracking.store import WandbStore

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
    require_writable(arguments.registry)
    holder, displaced, reason = promote(arguments.named, arguments.alias, arguments.registry)
    echo(f"{holder.run} is {arguments.alias}: {reason}")
    if holder.wandb is not None:
        echo(f"W&B: {_store_of(holder.wandb).give_alias(arguments.alias).rpartition(':')[0]}:{arguments.alias}")
    for run in displaced:
        _take(run, arguments.alias, arguments.registry)
    return 0


def _take(run: str, alias: str, registry: Path) -> None:
    """Take the alias from a W&B run that held it; where that fails, the same promotion tries it again."""
    try:
        _store_of(run).take_alias(alias)
    except TrackingUnavailable as error:
        logger.warning("%s: %s is there too until the same command is given again", error, alias)
    else:
        note_taken(registry, alias, run)


def _store_of(run: str) -> "WandbStore":
    from tasks.services.tracking.store import WandbStore

    tracking = TrackingConfig()
    return WandbStore(RunPath.parse(run, tracking), tracking)
