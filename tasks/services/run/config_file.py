"""config.yaml: the config that a run was asked for, whole, with the command and the commit; written by its owner."""

import logging
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from tasks.services.run.code_version import code_version
from tasks.services.run.lock import OwnedRun
from tasks.services.run.paths import RunDir
from ups_models.config.schema import PipelineConfig
from ups_models.errors import BadInput, ConfigError
from ups_models.files import write_text
from ups_models.reading import YAML_LIMIT, Unparsable, Unreadable, parse_yaml, read_text
from ups_models.wording import first_line

logger = logging.getLogger(__name__)

CHECKPOINTS = Path("checkpoints")
"""Where they lie if nothing else is said."""
MARK = "# The config of this run, as it was resolved; written by ups-pipeline."


def write_config(run: OwnedRun, cfg: PipelineConfig) -> None:
    """Keep the config, the command and the commit. A file of that name that is not ours is left alone, and named."""
    if run.config.exists() and kept_config(run) is None:
        logger.warning("%s: is not the config of a run, and is left alone: this run keeps none", run.config)
        return
    head = [MARK, f"# command: {shlex.join(sys.argv)}", f"# commit: {code_version()}"]
    write_text(run.config, "\n".join([*head, _body(cfg)]))


def is_kept(run: RunDir, cfg: PipelineConfig) -> bool:
    """Whether the run keeps this very config."""
    return _text(run.config).startswith(MARK) and _text(run.config).endswith(_body(cfg))


def kept_config(run: RunDir) -> Path | None:
    """The config that the run keeps, if it does."""
    return run.config if _text(run.config).startswith(MARK) else None


def checkpoint_dir_of(root: Path) -> Path:
    """Where the run in a folder has its checkpoints, by the config that it keeps; no code of the user's is imported.

    Raises ConfigError.
    """
    try:
        return Path(_kept_section(root, "checkpoint").get("dir", CHECKPOINTS))
    except (Unparsable, AttributeError, TypeError) as error:
        kept = RunDir.of(root, Path()).config
        raise ConfigError(f"{kept}: is not the config of a run any more ({first_line(error)}); put it back") from None


def _kept_section(root: Path, name: str) -> Any:
    """A section of the config that the run in a folder keeps; empty where it keeps none, or has no such section."""
    kept = kept_config(RunDir.of(root, Path()))
    return {} if kept is None else (parse_yaml(_text(kept)) or {}).get(name, {})


def disabled_stages(root: Path) -> frozenset[str]:
    """Stages without epochs in the config of the run in a folder; none where it keeps no config that can be read."""
    try:
        stages = _kept_section(root, "stages").items()
        return frozenset(name for name, settings in stages if settings.get("epochs") == 0)
    except (Unparsable, AttributeError, TypeError):
        return frozenset()


def run_in(folder: Path) -> RunDir | None:
    """The run that is named by its own folder, or by that of its checkpoints; None where there is none.

    Raises ConfigError where the config that it keeps cannot be read.
    """
    for run in (RunDir(folder.parent, folder), RunDir.of(folder, checkpoint_dir_of(folder))):
        if any(run.checkpoints.glob("*.pt")) or run.status.exists() or run.lock.exists():
            return run
    return None


def require_own_folder(run: RunDir, cfg: PipelineConfig) -> None:
    """Raise BadInput where the folder is that of a run with another checkpoint.dir: both would share reports/."""
    kept = kept_config(run)
    if kept is None:
        return
    try:
        other = checkpoint_dir_of(run.root)
    except ConfigError as error:  # damaged, or of another version: it is written again
        logger.warning("%s", error)
        return
    if other != cfg.checkpoint.dir and (run.root / other).exists():
        raise BadInput(
            f"{run.root}: is the run whose checkpoints are in {run.root / other}, and its reports/ would be mixed with "
            f"those of checkpoint.dir={cfg.checkpoint.dir}; choose another --run-dir"
        )


def _body(cfg: PipelineConfig) -> str:
    return yaml.safe_dump(cfg.model_dump(mode="json"), sort_keys=False)


def _text(path: Path) -> str:
    """What the file holds; nothing where it cannot be read, or is a link to somebody else's."""
    try:
        return read_text(path, limit=YAML_LIMIT, follow_links=False)
    except (FileNotFoundError, Unreadable):
        return ""
