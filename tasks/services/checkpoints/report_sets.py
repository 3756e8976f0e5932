"""The evaluations and the report of a run as one set: gathered, verified, and put in place on another machine."""

import shutil
from pathlib import Path

from tasks.services.checkpoints.sets import WEIGHTS, RestoredSet, link, read_manifest, require_no_links, write_manifest
from tasks.services.run.lock import OwnedRun
from tasks.services.run.paths import MANIFEST, REPORT, STATUS, RunDir
from tasks.services.run.status import EVALUATIONS, Status, StatusStore, read_status, text_of
from ups_models.errors import CheckpointError
from ups_models.files import known_digest, write_text

RESULTS = frozenset({REPORT, *(f"{name}{suffix}" for name in EVALUATIONS for suffix in (".json", ".md", ".npz"))})
NAMES = frozenset({MANIFEST, STATUS, *RESULTS})
"""Every name that such a set may hold."""


def take_report(run: RunDir, folder: Path) -> None:
    """Gather what completed evaluations and the report left in `folder`, with their records and a manifest.

    It holds no time of its own: an unchanged report makes an equal set.
    """
    status = read_status(run.status)
    done = {name: record for name, record in status.evaluations.items() if record.status == "completed"}
    names = {REPORT, *(name for record in done.values() for name in record.files or {})} & RESULTS
    folder.mkdir(parents=True)
    for name in sorted(names):
        if (run.reports / name).is_file():
            link(run.reports / name, folder / name)
    kept = Status(created_at=status.created_at, evaluations=done, report=status.report)
    write_text(folder / STATUS, text_of(kept))
    write_manifest(folder, NAMES)


def verify_report(folder: Path, origin: str) -> RestoredSet:
    """Check every digest of a downloaded set. Raises CheckpointError, StatusError."""
    manifest = read_manifest(folder, origin, NAMES)
    require_no_links(folder, origin)
    for name, digest in manifest.items():
        if not (folder / name).is_file() or known_digest(folder / name) != digest:
            raise CheckpointError(f"{origin}: {name} did not arrive as it was saved (sha256 differs); try again")
    status = read_status(folder / STATUS)
    for record in status.evaluations.values():
        for name, known in (record.files or {}).items():
            if manifest.get(name, known.digest) != known.digest:
                raise CheckpointError(f"{origin}: its records name another {name} than the set holds; pull again")
    return RestoredSet(folder, status, origin)


def why_kept(restored: RestoredSet, run: RunDir) -> str | None:
    """Why the evaluations of the set do not replace those of the run here; None: they do."""
    status = read_status(run.status)
    weights = {name: status.stage(stage).files or {} for name, stage in WEIGHTS.items()}
    for record in restored.status.evaluations.values():
        for name, sha256 in (record.inputs or {}).items():
            if name in weights and (name not in weights[name] or weights[name][name].sha256 != sha256):
                return f"they are of another {name} than there is here"
    if run.report.is_file() and _newest(status) >= _newest(restored.status):
        return "those here are as new"
    return None


def install_report(restored: RestoredSet, run: OwnedRun) -> None:
    """Move a verified set into place; the records come last."""
    run.reports.mkdir(parents=True, exist_ok=True)
    for name in sorted(RESULTS):
        if (restored.folder / name).is_file():
            (restored.folder / name).replace(run.reports / name)
    came = {"evaluations": restored.status.evaluations, "report": restored.status.report}
    store = StatusStore(run)
    store.replace(store.read().model_copy(update=came))
    shutil.rmtree(restored.folder)


def _newest(status: Status) -> str:
    """When the last evaluation was completed; empty before the first."""
    return max((record.completed_at or "" for record in status.evaluations.values()), default="")
