"""Code of the user's that a run was trained with: kept beside its checkpoints, and trusted when it comes back."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tasks.services.run.lock import OwnedRun
from tasks.services.run.status import StatusError, read_status
from ups_models.config.schema import PipelineConfig
from ups_models.errors import BadInput
from ups_models.files import write_text
from ups_models.own_code import OwnCode, identified, is_reference, own_code, trust_kept


def own_code_of(cfg: PipelineConfig) -> tuple[OwnCode, ...]:
    """All that a config names of the user's code. Raises BadInput for two files of one name with other contents."""
    texts = (cfg.data.family, cfg.data.layout, cfg.operator.network, cfg.denoiser.network, cfg.prior.network)
    found = [own_code(text) for text in texts if text is not None and is_reference(text)]
    by_name: dict[str, OwnCode] = {}
    for one in found:
        other = by_name.setdefault(one.file.name, one)
        if other.digest != one.digest:
            raise BadInput(f"{other.file} and {one.file} are two files of one name; rename one of them")
    return tuple(found)


def code_files(cfg: PipelineConfig) -> dict[str, str]:
    """The texts of all of it, by their paths from the folder of the file that a config names.

    Raises BadInput where two folders have different files of one name: elsewhere all lie in one.
    """
    found: dict[str, tuple[Path, str]] = {}
    for one in own_code_of(cfg):
        for name, text in one.texts.items():
            folder, other = found.setdefault(name, (one.file.parent, text))
            if other != text:
                raise BadInput(f"{folder / name} and {one.file.parent / name} are two files of one name; rename one")
    return {name: text for name, (_, text) in found.items()}


def write_code(cfg: PipelineConfig, folder: Path) -> None:
    """Put all of it into a folder."""
    for name, text in code_files(cfg).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(folder / name, text)


def with_code_in(cfg: PipelineConfig, folder: Path) -> dict[str, Any]:
    """The config as it is written for where all files of the user's code lie in one folder."""
    values: dict[str, Any] = cfg.model_dump(mode="json")
    for section in values.values():
        for name, text in section.items() if isinstance(section, dict) else ():
            if isinstance(text, str) and is_reference(text):
                section[name] = str(folder / Path(text).name)
    return values


def keep_code(run: OwnedRun, cfg: PipelineConfig) -> None:
    """Write the user's code that a run works with beside its checkpoints; nothing where there is none."""
    found = {one.file.name: dict(one.texts) for one in own_code_of(cfg)}
    if found:
        write_text(run.code, json.dumps(found, indent=1, sort_keys=True) + "\n")


def trust_code(path: Path, status: Path, names: Collection[str]) -> None:
    """Let code that came with checkpoints be executed, each file by its name, if it is what they were trained with.

    `path` holds the code, `status` says what was trained. Raises BadInput.
    """
    try:
        records = list(read_status(status).stages.values()) if names else []
    except StatusError:
        records = []
    trust_kept(path, names, identified(record.arch or {} for record in records))
