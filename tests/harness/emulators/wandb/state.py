"""The W&B server's state in a directory: state.json, and one file for each content under blobs/."""

import hashlib
import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.emulators.wandb.store import ArtifactRecord, RunRecord, Store

TRANSIENT = {"heartbeat_s", "crash_after_s"}  # of this process alone


def save_state(store: Store, state_dir: Path) -> None:
    """Write everything; a content that is there already is not written again."""
    (state_dir / "blobs").mkdir(parents=True, exist_ok=True)
    state = {
        "projects": store.projects,
        "types": store.types,
        "birth": store.birth,
        "blobs": {key: _put(content, state_dir) for key, content in store.blobs.items()},
        "runs": [_run_to_json(run, state_dir) for run in store.runs.values()],
        "artifacts": [_artifact_to_json(artifact, state_dir) for artifact in store.artifacts.values()],
        "next_number": next(store.numbers),
    }
    target = state_dir / "state.json"
    written = target.with_suffix(".tmp")
    written.write_text(json.dumps(state))
    written.replace(target)


def load_state(store: Store, state_dir: Path) -> None:
    """Read what save_state() wrote, if it ever did."""
    path = state_dir / "state.json"
    if not path.exists():
        return
    state = json.loads(path.read_text())
    store.projects, store.types, store.birth = state["projects"], state["types"], state["birth"]
    store.blobs = {key: _get(name, state_dir) for key, name in state["blobs"].items()}
    for raw in state["runs"]:
        raw["files"] = {name: _get(content, state_dir) for name, content in raw["files"].items()}
        run = RunRecord(**raw, crash_after_s=store.crash_after_s)
        store.runs[run.key] = run
    for raw in state["artifacts"]:
        raw["manifest_bytes"] = raw["manifest_bytes"] and _get(raw["manifest_bytes"], state_dir)
        artifact = ArtifactRecord(**raw)
        store.artifacts[artifact.id] = artifact
    store.numbers = itertools.count(state["next_number"])


def _run_to_json(run: RunRecord, state_dir: Path) -> dict[str, Any]:
    raw = {name: value for name, value in asdict(run).items() if name not in TRANSIENT}
    return raw | {"files": {name: _put(content, state_dir) for name, content in run.files.items()}}


def _artifact_to_json(artifact: ArtifactRecord, state_dir: Path) -> dict[str, Any]:
    manifest = artifact.manifest_bytes
    return asdict(artifact) | {"manifest_bytes": manifest and _put(manifest, state_dir)}


def _put(content: bytes, state_dir: Path) -> str:
    name = hashlib.sha256(content).hexdigest()
    path = state_dir / "blobs" / name
    if not path.exists():
        path.write_bytes(content)
    return name


def _get(name: str, state_dir: Path) -> bytes:
    return (state_dir / "blobs" / name).read_bytes()
