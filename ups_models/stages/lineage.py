"""What weights descend from: a header in every checkpoint and saved state, and the one comparison of such descents."""

import math
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from ups_models.archives import DAMAGES
from ups_models.config.schema import PipelineConfig
from ups_models.errors import CheckpointError
from ups_models.reading import Unparsable, Unreadable, open_file, parse_json
from ups_models.stages.spec import StageSpec
from ups_models.wording import first_line

HEADER = "archive/header.json"
MAX_HEADER_BYTES = 1_000_000
RANGE_SLACK = 1e-4
"""Parameters are kept as float32."""
SEED, SPLIT, DATA, INIT = "seed", "data recipe", "data", "init"
"""What a stage learns from, beside the checkpoints it needs, as `inputs` names it."""
_WORDS = {
    SEED: "another seed",
    SPLIT: "another split or resolution of the data",
    DATA: "other data",
    INIT: "other weights to start from",
}
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the time of every entry: equal headers have equal bytes


class Lineage(BaseModel):
    """What a stage learned from and under which settings; keys that a later version added are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    stage: str
    arch: dict[str, int | float | str]
    inputs: dict[str, str]
    """The seed, the split, the identity of the data, and the sha256 of each checkpoint it needs, by file name."""
    config_hash: str
    settings: dict[str, Any]
    """The stage's section of the config, whole."""
    step: int | None = None
    """Of a saved state."""
    trained_on: dict[str, Any] | None = None
    """Grid, time step and ranges of the parameters, where the stage learned from trajectories."""

    @classmethod
    def of(
        cls,
        spec: StageSpec,
        cfg: PipelineConfig,
        inputs: Mapping[str, str],
        trained_on: Mapping[str, Any] | None = None,
    ) -> "Lineage":
        """Of a stage that is trained under this config, from these inputs."""
        return cls(
            stage=spec.name,
            arch=dict(spec.arch(cfg)),
            inputs=dict(inputs),
            config_hash=spec.config_hash(cfg),
            settings=cfg.stages.of(spec.name).model_dump(mode="json"),
            trained_on=dict(trained_on) if trained_on is not None else None,
        )


def difference(
    spec: StageSpec,
    cfg: PipelineConfig,
    known: Mapping[str, str],
    now: Mapping[str, str],
    same_data: Collection[str] = (),
) -> str | None:
    """The first of `now` that is not what a stage is `known` to have learned from; None where nothing disagrees.

    This is the only place that decides whether two things belong together. What either side does not name is no
    disagreement. `same_data` are further identities of the data that there is (the first edition's).
    """
    for name, value in now.items():
        if name not in known or known[name] == value:
            continue
        if name == SPLIT and spec.is_data_recipe(known[name], cfg):
            continue
        if name == DATA and known[name] in same_data:
            continue
        return name
    return None


def outside(trained_on: Mapping[str, Any] | None, facts: Mapping[str, Any]) -> list[str]:
    """What of the data is outside of what a network was trained on: time step and parameters, in words."""
    known = trained_on or {}
    found = []
    if "dt" in known and not math.isclose(known["dt"], facts["dt"], rel_tol=1e-4):
        found.append(f"a time step of {facts['dt']:g}, trained on {known['dt']:g}")
    for name, (low, high) in facts["parameters"].items():
        least, most = known.get("parameters", {}).get(name, (low, high))
        slack = RANGE_SLACK * max(abs(least), abs(most))
        if low < least - slack or high > most + slack:
            here, there = (
                f"{one:g}" if one == other else f"{one:g} to {other:g}" for one, other in ((low, high), (least, most))
            )
            found.append(f"{name} of {here}, trained on {there}")
    return found


def in_words(name: str) -> str:
    """What `difference` has found, for a sentence."""
    return _WORDS.get(name, f"another {name}")


def unusable(
    found: Lineage | None,
    spec: StageSpec,
    cfg: PipelineConfig,
    now: Mapping[str, str],
    same_data: Collection[str] = (),
) -> str | None:
    """Why a saved state must not be resumed, by its header: the rest of a sentence. None: nothing speaks against it."""
    if found is None:
        return None
    if found.stage != spec.name:
        return f"is of stage {found.stage}, not of {spec.name}"
    changed = difference(spec, cfg, found.inputs, now, same_data)
    if changed is not None:
        return f"is of a training with {in_words(changed)}"
    if not spec.is_config_hash(found.config_hash, cfg):
        return f"was saved under other settings of stage {spec.name}"
    last = cfg.stages.of(spec.name).total_steps
    if found.step is not None and not 0 <= found.step <= last:
        return f"stands at step {found.step}, but the stage has {last}"
    return None


def append_header(file: BinaryIO, lineage: Lineage) -> None:
    """Add the header to a .pt archive that has just been written; PyTorch does not look at it."""
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(zipfile.ZipInfo(HEADER, _EPOCH), lineage.model_dump_json())


def read_lineage(path: Path) -> Lineage | None:
    """The header of a checkpoint or saved state; None where there is none, as in files of the first edition.

    Reads no tensor and needs no PyTorch. Raises CheckpointError when the header is not what it must be; an archive
    that cannot be read has none: `archive_damage` says what is wrong with it.
    """
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            entry = archive.NameToInfo.get(HEADER)
            if entry is None:
                return None
            if entry.file_size > MAX_HEADER_BYTES or entry.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(f"{path}: its header is larger than any that this program writes")
            return Lineage.model_validate(parse_json(archive.read(entry).decode()))
    except (*DAMAGES, OSError, Unreadable) as error:
        if isinstance(error, ValidationError | Unparsable | UnicodeDecodeError):
            raise CheckpointError(f"{path}: its header cannot be read ({first_line(error)})") from None
        return None
