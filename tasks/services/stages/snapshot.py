"""What a run holds at one moment, read once: status, files and their digests, the identity of its data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.services.data.datasets import data_identities
from tasks.services.run.paths import STATUS, RunDir
from tasks.services.run.status import StageRecord, Status, read_status
from ups_models.config.schema import PipelineConfig
from ups_models.files import FileDigest, archive_damage, known_digest
from ups_models.stages.spec import SPECS, StageSpec

STATES = tuple(f"resume/{stage}{which}.pt" for stage in SPECS for which in ("", ".previous"))
CHECKPOINTS = tuple(name for spec in SPECS.values() for name in spec.files)


@dataclass(frozen=True)
class SavedState:
    """The newest state of an unfinished stage that can be read, and what is wrong with the newer one, or with all."""

    path: Path | None
    damage: str | None


@dataclass(frozen=True)
class Snapshot:
    """Facts about a run; nothing is decided here."""

    status: Status
    records: Mapping[str, StageRecord]
    present: frozenset[str]
    digests: Mapping[str, FileDigest]
    states: Mapping[str, SavedState]
    state_files: tuple[str, ...]
    archive_damages: Mapping[str, str]
    """What is wrong with the weights of stages whose record names no digests."""
    data: Mapping[bool, tuple[str, ...]]
    """Identities of the data that is there, by `StageSpec.steady`: of the whole content, then the first edition's."""

    @property
    def has_status(self) -> bool:
        """Whether there is a status file."""
        return STATUS in self.present


def read_snapshot(cfg: PipelineConfig, run: RunDir) -> Snapshot:
    """Read the run; its owner keeps the digests of its data files beside them. Raises StatusError."""
    status, present = read_status(run.status), run.present()
    records = status.records()
    unfinished = [name for name, record in records.items() if record.status in ("in_progress", "failed")]
    unverified = [name for name, record in records.items() if record.status == "completed" and record.files is None]
    damages = {name: archive_damage(run.checkpoint(SPECS[name].checkpoint)) for name in unverified}
    return Snapshot(
        status,
        records,
        present,
        {name: known_digest(run.checkpoint(name)) for name in CHECKPOINTS if name in present},
        {name: saved_state(run.saved_states(name)) for name in unfinished},
        tuple(name for name in STATES if name in present),
        {name: damage for name, damage in damages.items() if damage is not None},
        data_identities(cfg, run, _recorded_data(records)),
    )


def saved_state(paths: Sequence[Path]) -> SavedState:
    """The first of the paths, newest first, whose file is whole."""
    damage = None
    for path in paths:
        if path.is_file():
            found = archive_damage(path)
            if found is None:
                return SavedState(path, damage)
            damage = f"{path.name} is damaged ({found})"
    return SavedState(None, damage or "there is no saved state")


def read_inputs(spec: StageSpec, cfg: PipelineConfig, run: RunDir) -> dict[str, str]:
    """What a stage that starts now learns from."""
    names = [SPECS[name].checkpoint for name in spec.needs]
    digests = {name: known_digest(run.checkpoint(name)) for name in names}
    return _inputs(spec, cfg, digests, data_identities(cfg, run)[spec.steady])


def changed_input(spec: StageSpec, cfg: PipelineConfig, snapshot: Snapshot) -> str | None:
    """Which of the things that a stage's record names is another one now."""
    known = snapshot.records[spec.name].inputs or {}
    for name, value in _inputs(spec, cfg, snapshot.digests, snapshot.data[spec.steady]).items():
        if name not in known or known[name] == value:
            continue
        if name == "data recipe" and spec.is_data_recipe(known[name], cfg):
            continue
        if name == "data" and known[name] in snapshot.data[spec.steady]:
            continue
        return name
    return None


def _recorded_data(records: Mapping[str, StageRecord]) -> set[str]:
    return {record.inputs["data"] for record in records.values() if record.inputs and "data" in record.inputs}


def _inputs(
    spec: StageSpec, cfg: PipelineConfig, digests: Mapping[str, FileDigest], data: Sequence[str]
) -> dict[str, str]:
    """The seed, the data and its split, and the sha256 of each checkpoint that a stage needs.

    The content of data files is in it as far as they are there: a finished run needs no data.
    """
    inputs = {"seed": str(cfg.seed), "data recipe": spec.data_recipe(cfg)}
    needed = [SPECS[name].checkpoint for name in spec.needs]
    inputs |= {name: digests[name].sha256 for name in needed if name in digests}
    return inputs | ({"data": data[0]} if data else {})
