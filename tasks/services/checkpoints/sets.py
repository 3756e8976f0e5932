"""A whole set of checkpoints: taken as a snapshot, verified, and put in place on another machine."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.services.run.lock import OwnedRun
from tasks.services.run.paths import CODE, HISTORY, MANIFEST, STATUS, RunDir
from tasks.services.run.status import (
    Status,
    StatusStore,
    UploadRecord,
    WandbRecord,
    read_status,
    text_of,
)
from ups_models.config.schema import PipelineConfig
from ups_models.errors import BadInput, CheckpointError
from ups_models.files import FileDigest, known_digest, write_text
from ups_models.reading import parse_json, read_text
from ups_models.stages.lineage import SEED, SPLIT, difference, in_words, read_lineage
from ups_models.stages.spec import SPECS, StageSpec, check_architecture
from ups_models.wording import first_line, shown

logger = logging.getLogger(__name__)

RESUME = {f"resume/{stage}.pt": stage for stage in SPECS}
WEIGHTS = {name: stage for stage, spec in SPECS.items() for name in spec.files}
NAMES = frozenset({MANIFEST, STATUS, HISTORY, CODE, *RESUME, *WEIGHTS})
"""Every name that a set may hold; any other name that a server lists is ignored."""


@dataclass(frozen=True)
class RestoredSet:
    """A verified set in its staging folder."""

    folder: Path
    status: Status
    origin: str


def signature_of(status: Status) -> str:
    """Identifies how far training is: of two statuses with the same signature, one needs no upload."""
    stages = {name: record.model_dump(mode="json", exclude_none=True) for name, record in status.stages.items()}
    return hashlib.sha256(json.dumps(stages, sort_keys=True).encode()).hexdigest()


def take_snapshot(run: RunDir, folder: Path) -> Status:
    """Gather the run's set in `folder`: every file that the status names, the saved state, the history, the status.

    Weights are hard links: their files are replaced, never changed in place. Must be called by the thread that
    writes checkpoints, so that status and files belong together. Returns that status.
    """
    status = read_status(run.status).model_copy(
        update={"upload": None, "evaluations": {}, "report": None, "forced_by": None}
    )
    names = [name for record in status.stages.values() for name in record.files or {}]
    names += [name for name, stage in RESUME.items() if status.stage(stage).status in ("in_progress", "failed")]
    folder.mkdir(parents=True)
    (folder / "resume").mkdir()
    for name in names:
        if run.checkpoint(name).is_file():
            link(run.checkpoint(name), folder / name)
    for path in (run.history, run.code):
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    write_text(folder / STATUS, text_of(status))
    return status


def write_manifest(folder: Path, names: frozenset[str] = NAMES) -> None:
    """Write the manifest of a snapshot: sha256 and size of each file. It holds no time: equal sets have equal bytes."""
    digests = {name: known_digest(folder / name) for name in sorted(names - {MANIFEST}) if (folder / name).is_file()}
    content = {name: {"sha256": digest.sha256, "bytes": digest.bytes} for name, digest in digests.items()}
    write_text(folder / MANIFEST, json.dumps(content, indent=1, sort_keys=True) + "\n")


def verify_set(folder: Path, cfg: PipelineConfig, origin: str) -> RestoredSet:
    """Check every digest of a downloaded set, and that the config has the architecture it was trained with.

    Raises CheckpointError, ArchitectureMismatch, StatusError.
    """
    manifest = read_manifest(folder, origin)
    require_no_links(folder, origin)
    for name, digest in manifest.items():
        if not (folder / name).is_file() or known_digest(folder / name) != digest:
            raise CheckpointError(f"{origin}: {name} did not arrive as it was saved (sha256 differs); try again")
    status = read_status(folder / STATUS)
    for stage, record in status.stages.items():
        if record.arch is not None and record.status != "not_started":
            check_architecture(origin, record.arch, SPECS[stage].arch(cfg))
        for name, known in (record.files or {}).items():
            if manifest.get(name, known.digest if name != SPECS[stage].checkpoint else None) != known.digest:
                raise CheckpointError(f"{origin}: its status names another {name} than the set holds; choose another")
        if record.status == "completed":
            _require_lineage(folder / SPECS[stage].checkpoint, SPECS[stage], cfg, manifest, origin)
        elif (record.step or 0) > cfg.stages.of(stage).total_steps:
            raise CheckpointError(f"{origin}: its status names step {record.step} of {stage}, which has no such step")
    return RestoredSet(folder, status, origin)


def _require_lineage(
    path: Path, spec: StageSpec, cfg: PipelineConfig, manifest: Mapping[str, FileDigest], origin: str
) -> None:
    """Raise CheckpointError where a checkpoint was trained from others than the set holds, or for another config."""
    lineage = read_lineage(path) if path.is_file() else None
    if lineage is None:
        return
    needed = [SPECS[name].checkpoint for name in spec.needs]
    now = {SEED: str(cfg.seed), SPLIT: spec.data_recipe(cfg)}
    now |= {name: manifest[name].sha256 for name in needed if name in manifest}
    other = difference(spec, cfg, lineage.inputs, now)
    if other is not None:
        raise CheckpointError(
            f"{origin}: its {path.name} was trained with {in_words(other)} than the config and the set have; use the "
            "config of that run, or choose another"
        )


def is_newer(restored: RestoredSet, run: RunDir, *, force: bool) -> bool:
    """Whether the set is further than the run here. Raises BadInput when each holds what the other does not."""
    local, remote = read_status(run.status), restored.status
    mine, theirs = _positions(local), _positions(remote)
    if force or all(position == (0, 0) for position in mine.values()):
        return True
    other = next((name for name in SPECS if _weights_differ(local, remote, name)), None)
    ahead = all(mine[name] >= theirs[name] for name in SPECS)
    behind = all(mine[name] <= theirs[name] for name in SPECS)
    if other is not None or not (ahead or behind):
        what = f"another {other}" if other else "other stages"
        raise BadInput(
            f"{run.checkpoints}: holds {what} than {restored.origin}, and one would be lost; choose another --run-dir, "
            "resume what is here (without --resume-from-wandb), or replace it with --force"
        )
    return not ahead


def is_behind(local: Status, remote: Status) -> bool:
    """Whether some stage is further in the remote status than in the local one."""
    mine, theirs = _positions(local), _positions(remote)
    return any(mine[name] < theirs[name] for name in SPECS)


def install_set(restored: RestoredSet, run: OwnedRun, wandb: WandbRecord | None) -> None:
    """Move a verified set into place; the status goes first and comes last.

    A crash in between leaves files without a status, which no run overwrites or trusts. If the set's own W&B run is
    resumed, this set is recorded as its last upload.
    """
    collection, _, version = restored.origin.rpartition(":")
    upload = UploadRecord(version=version, signature=signature_of(restored.status)) if wandb and collection else None
    run.status.unlink(missing_ok=True)
    for name in (*WEIGHTS, *RESUME):
        target = run.checkpoint(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in RESUME:
            run.forget_saved_states(RESUME[name])
        if (restored.folder / name).is_file():
            (restored.folder / name).replace(target)
        else:
            target.unlink(missing_ok=True)
    if (restored.folder / HISTORY).is_file():
        run.reports.mkdir(parents=True, exist_ok=True)
        (restored.folder / HISTORY).replace(run.history)
    if (restored.folder / CODE).is_file():
        (restored.folder / CODE).replace(run.code)
    later: dict[str, Any] = {"wandb": wandb, "upload": upload, "evaluations": {}}
    StatusStore(run).replace(restored.status.model_copy(update=later))
    shutil.rmtree(restored.folder)


def read_manifest(folder: Path, origin: str, names: frozenset[str] = NAMES) -> dict[str, FileDigest]:
    """The manifest of a downloaded set, which may name these files. Raises CheckpointError."""
    try:
        raw = parse_json(read_text(folder / MANIFEST, follow_links=False))
        manifest = {str(name): FileDigest(str(item["sha256"]), int(item["bytes"])) for name, item in raw.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        what = first_line(error)
        raise CheckpointError(f"{origin}: its manifest cannot be read ({what}); choose another") from None
    unknown = sorted(manifest.keys() - names)
    if unknown or STATUS not in manifest:
        what = f"names {shown(unknown[0])}, which does not belong in a set" if unknown else f"does not name {STATUS}"
        raise CheckpointError(f"{origin}: its manifest {what}; choose another")
    return manifest


def require_no_links(folder: Path, origin: str) -> None:
    """Raise CheckpointError for a link among what was downloaded: it would put another file in a checkpoint's place."""
    link = next((path for path in sorted(folder.rglob("*")) if path.is_symlink()), None)
    if link is not None:
        raise CheckpointError(f"{origin}: {link.relative_to(folder)} arrived as a link, which no set holds; choose another")


def _positions(status: Status) -> Mapping[str, tuple[int, int]]:
    """How far each stage is: completed, or the step that its saved state stands at."""
    records = {name: status.stage(name) for name in SPECS}
    return {name: (1, 0) if item.status == "completed" else (0, item.step or 0) for name, item in records.items()}


def _weights_differ(local: Status, remote: Status, stage: str) -> bool:
    """Whether both completed a stage, but with other weights."""
    mine, theirs = local.stage(stage), remote.stage(stage)
    return bool(mine.files and theirs.files and mine.files != theirs.files)


def link(source: Path, target: Path) -> None:
    """The same file under another name, for files that are replaced and never changed in place."""
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
