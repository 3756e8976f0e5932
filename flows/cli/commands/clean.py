"""`ups clean`: remove what a finished run does not need any more."""

import argparse
import shutil
from pathlib import Path

from flows.cli.arguments import add_run, path_named
from flows.cli.views.console import agreed, echo
from flows.cli.views.status import MEGABYTE
from tasks.services.checkpoints.uploads import why_missing
from tasks.services.run.config_file import run_in
from tasks.services.run.lock import owned
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from ups_models.errors import BadInput


def add(parser: argparse.ArgumentParser) -> None:
    """The run."""
    add_run(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(arguments: argparse.Namespace) -> int:
    """Show what would go and how much it is, ask, and remove it."""
    path = path_named(arguments)
    found = run_in(path)
    if found is None or not read_status(found.status).training_complete:
        raise BadInput(f"{path}: holds no finished run, and an unfinished one needs everything it has")
    with owned(found) as own:
        unneeded = {path: _size(path) for path in _unneeded(own) if path.exists()}
        for path, size in unneeded.items():
            echo(f"{path}: {size / MEGABYTE:.1f} MB")
        if not unneeded:
            echo("Nothing to remove.")
        elif arguments.yes or agreed("Remove?"):
            for path in unneeded:
                shutil.rmtree(path)
    return 0


def _unneeded(run: RunDir) -> list[Path]:
    """Data that the config solves or fetches again, and what the W&B client kept once W&B has all of it."""
    uploaded = why_missing(read_status(run.status)) is None
    return [run.data, run.checkpoints / "resume", *([run.root / "wandb"] if uploaded else [])]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
