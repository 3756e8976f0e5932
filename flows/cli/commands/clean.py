"""`ups clean`: remove what a finished run does not need any more."""

import argparse
import shutil
from pathlib import Path

from flows.cli.arguments import add_run, add_trust_code, path_named
from flows.cli.views.console import agreed, echo
from flows.cli.views.status import MEGABYTE
from tasks.services.checkpoints.uploads import why_missing
from tasks.services.data.datasets import files_of_ours
from tasks.services.run.config_file import disabled_stages, kept_config, run_in
from tasks.services.run.lock import owned
from tasks.services.run.own_files import trust_code
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from ups_models.config.loading import load_config
from ups_models.config.schema import PipelineConfig
from ups_models.errors import BadInput
from ups_models.stages.spec import SPECS


def add(parser: argparse.ArgumentParser) -> None:
    """The run."""
    add_run(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_trust_code(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show what would go and how much it is, ask, and remove it."""
    path = path_named(arguments)
    found = run_in(path)
    if found is not None:
        trust_code(found.code, found.status, arguments.trust_code)
    if found is None or (missing := _unfinished(found)) is not None:
        what = "" if found is None else f" ({missing})"
        raise BadInput(f"{path}: holds no finished run{what}, and an unfinished one needs everything it has")
    with owned(found) as own:
        unneeded = {path: _size(path) for path in _unneeded(own) if path.exists()}
        for path, size in unneeded.items():
            echo(f"{path}: {size / MEGABYTE:.1f} MB")
        if not unneeded:
            echo("Nothing to remove.")
        elif arguments.yes or agreed("Remove?"):
            for path in unneeded:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return 0


def _unfinished(run: RunDir) -> str | None:
    """Which stage is not completed, and is to be; None where none is left."""
    disabled = disabled_stages(run.root)
    for name, record in read_status(run.status).records().items():
        is_needed = not SPECS[name].optional and name not in disabled
        if record.status != "completed" and (is_needed or record.status != "not_started"):
            return f"{name}: {record.status.replace('_', ' ')}"
    return None


def _config_of(run: RunDir) -> PipelineConfig | None:
    path = kept_config(run)
    return None if path is None else load_config(path, schema=PipelineConfig)


def _unneeded(run: RunDir) -> list[Path]:
    """Data that the config solves or fetches again, and what the W&B client kept once W&B has all of it.

    Other files in the folder of the data are their owner's.
    """
    cfg = _config_of(run)
    data = [] if cfg is None else files_of_ours(cfg, run)
    uploaded = why_missing(read_status(run.status)) is None
    return [*data, run.checkpoints / "resume", *([run.root / "wandb"] if uploaded else [])]


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file() and not one.is_symlink())
