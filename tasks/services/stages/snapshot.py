"""What a run holds at one moment, read once: status, files and their digests, the identity of its data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.services.data.datasets import data_identities
from tasks.services.run.paths import STATUS, RunDir
from tasks.services.run.status import StageRecord, Status, read_status
from ups_models.archives import archive_damage
from ups_models.config.schema import PipelineConfig
from ups_models.errors import CheckpointError, DataError
from ups_models.files import FileDigest, known_digest
from ups_models.stages.lineage import DATA, INIT, SEED, SPLIT, Lineage, difference, read_lineage, unusable
from ups_models.stages.spec import SPECS, StageSpec


def states_of(stage: str) -> tuple[str, ...]:
    """The names under which a stage's saved states lie, as `Snapshot.present` has them."""
    return tuple(f"resume/{stage}{which}.pt" for which in ("", ".previous"))


@dataclass(frozen=True)
class SavedState:
    """The newest state of an unfinished stage that can be used, and what is wrong with the newer one, or with all."""

    path: Path | None
    damage: str | None
    exists: bool
    """Whether there is any, usable or not."""


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
    lineages: Mapping[str, Lineage]
    """Of the completed stages whose averaged weights carry one."""
    results: Mapping[str, FileDigest]
    """Digests of the files that completed evaluations name, as far as they are there."""

    def inputs_of(self, stage: str) -> Mapping[str, str]:
        """What a stage learned from: what its checkpoint says, and where that says nothing, its record."""
        lineage = self.lineages.get(stage)
        return lineage.inputs if lineage is not None else self.records[stage].inputs or {}

    @property
    def unknown_descents(self) -> tuple[str, ...]:
        """The completed stages whose checkpoints do not say what they were trained from."""
        return tuple(name for name, item in self.records.items() if item.status == "completed" and self._is_bare(name))

    def _is_bare(self, stage: str) -> bool:
        return stage not in self.lineages and SPECS[stage].checkpoint in self.digests

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
    files = [name for spec in SPECS.values() for name in spec.files if name in present]
    digests = {name: known_digest(run.checkpoint(name)) for name in files}
    data = data_identities(cfg, run, _recorded_data(records))
    return Snapshot(
        status,
        records,
        present,
        digests,
        {name: _saved_state(SPECS[name], cfg, run, digests, data) for name in unfinished},
        tuple(name for stage in SPECS for name in states_of(stage) if name in present),
        {name: damage for name, damage in damages.items() if damage is not None},
        data,
        _lineages(run, records),
        _results(run, status, present),
    )


def inputs_now(
    spec: StageSpec, cfg: PipelineConfig, digests: Mapping[str, FileDigest], data: Sequence[str]
) -> dict[str, str]:
    """The seed, the data and its split, and the sha256 of each checkpoint that a stage needs.

    The content of data files and of weights to start from is in it as far as they are there: a finished run needs
    neither.
    """
    inputs = {SEED: str(cfg.seed), SPLIT: spec.data_recipe(cfg)}
    needed = [SPECS[name].checkpoint for name in spec.needs]
    inputs |= {name: digests[name].sha256 for name in needed if name in digests}
    start = cfg.stages.of(spec.name).init_from
    inputs |= {INIT: known_digest(start).sha256} if start is not None and start.is_file() else {}
    return inputs | ({DATA: data[0]} if data else {})


def read_inputs(spec: StageSpec, cfg: PipelineConfig, run: RunDir) -> dict[str, str]:
    """What a stage that starts now learns from. Raises DataError where what it needs was trained on other data."""
    names = [SPECS[name].checkpoint for name in spec.needs]
    digests = {name: known_digest(run.checkpoint(name)) for name in names}
    inputs = inputs_now(spec, cfg, digests, data_identities(cfg, run)[spec.steady])
    for name in names:
        teacher = read_lineage(run.checkpoint(name))
        known = teacher.inputs.get(DATA) if teacher is not None else None
        if known is not None and DATA in inputs and known != inputs[DATA]:
            raise DataError(
                f"{run.checkpoint(name)}: was trained on other data than there are now, and stage {spec.name} would "
                "mix both; put the data back, or train everything again with --force-train"
            )
    return inputs


def changed_input(spec: StageSpec, cfg: PipelineConfig, snapshot: Snapshot) -> str | None:
    """Which of the things that a stage learned from is another one now."""
    data = snapshot.data[spec.steady]
    return difference(spec, cfg, snapshot.inputs_of(spec.name), inputs_now(spec, cfg, snapshot.digests, data), data)


def _saved_state(
    spec: StageSpec,
    cfg: PipelineConfig,
    run: RunDir,
    digests: Mapping[str, FileDigest],
    data: Mapping[bool, Sequence[str]],
) -> SavedState:
    """The first of a stage's saved states, newest first, that is whole and of this very training."""
    damage = None
    now = inputs_now(spec, cfg, digests, data[spec.steady])
    paths = [path for path in run.saved_states(spec.name) if path.is_file()]
    for path in paths:
        found = archive_damage(path)
        refusal = f"is damaged ({found})" if found is not None else _refusal(path, spec, cfg, now, data[spec.steady])
        if refusal is None:
            return SavedState(path, damage, exists=True)
        damage = f"{path.name} {refusal}"
    return SavedState(None, damage or "there is no saved state", exists=bool(paths))


def _refusal(
    path: Path, spec: StageSpec, cfg: PipelineConfig, now: Mapping[str, str], data: Sequence[str]
) -> str | None:
    try:
        return unusable(read_lineage(path), spec, cfg, now, data)
    except CheckpointError as error:
        return f"cannot be used ({error})"


def _lineages(run: RunDir, records: Mapping[str, StageRecord]) -> dict[str, Lineage]:
    names = [name for name, record in records.items() if record.status == "completed"]
    found = {name: read_lineage(run.checkpoint(SPECS[name].checkpoint)) for name in names}
    return {name: lineage for name, lineage in found.items() if lineage is not None}


def _results(run: RunDir, status: Status, present: frozenset[str]) -> dict[str, FileDigest]:
    named = {name for record in status.evaluations.values() for name in record.files or {}}
    return {name: known_digest(run.reports / name) for name in named if f"reports/{name}" in present}


def _recorded_data(records: Mapping[str, StageRecord]) -> set[str]:
    return {record.inputs["data"] for record in records.values() if record.inputs and "data" in record.inputs}
