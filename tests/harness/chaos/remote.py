"""A training on rented machines, from the outside: the real command, what it is told, and what it leaves in W&B."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows import ROOT
from harness.chaos.checks import outcome
from harness.emulators.wandb.server import WandbServer
from tasks.services.run.paths import RunDir
from ups_models.stages.spec import SPECS

SETTINGS = (
    "tracking.upload_every_s=1",
    "checkpoint.save_every_steps=20",
    "runtime.device=cpu",
)
ARGUMENTS = ("--config", "configs/smoke.yaml", *(word for setting in SETTINGS for word in ("--set", setting)))
VAST_KEY, WANDB_KEY = "vastcanary0key0that0nobody0must0ever0find", "wandbcanary0key0nobody0must0ever0find000f"
RUNPOD_KEY = "runpodcanary0key0that0nobody0must0ever0find"
MARKET_KEYS = {"VAST_API_KEY": VAST_KEY, "RUNPOD_API_KEY": RUNPOD_KEY}


def environment_in(scratch: Path) -> dict[str, str]:
    """What every process of a trial gets: a home of its own, and no Prefect and W&B of the user."""
    home = scratch / "home"
    home.mkdir(parents=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "WANDB_"))}
    return {
        **inherited,
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        **MARKET_KEYS,
    }


def undisturbed(scratch: Path, environment: dict[str, str], arguments: Sequence[str]) -> dict[str, str]:
    """Train here, without W&B; sha256 of each checkpoint."""
    root = scratch / "undisturbed"
    root.mkdir(parents=True)
    command = [sys.executable, str(ROOT / "flows" / "pipeline.py"), *arguments, "--run-dir", str(root)]
    subprocess.run(
        command,
        check=True,
        cwd=ROOT,
        env={**environment, "WANDB_MODE": "disabled"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    found = outcome(RunDir.of(root, Path("checkpoints")))
    return {name: found[name] for spec in SPECS.values() for name in spec.files if found[name] != "missing"}


def launch(scratch: Path, environment: dict[str, str], arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start `ups launch`; it writes to launch.log."""
    command = [sys.executable, "-m", "flows.cli", "launch", *arguments, "--run-dir", str(scratch / "run")]
    with (scratch / "launch.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)


def sets_in(wandb: WandbServer) -> int:
    """How many sets of checkpoints are committed."""
    collections = [found for name, found in wandb.artifacts.items() if "/ckpt-" in name]
    return sum(one.version is not None for found in collections for one in found)


def newest_status(wandb: WandbServer) -> dict[str, Any]:
    """stage_status.json of the newest set in W&B."""
    collection = next((name for name in reversed(wandb.artifacts) if "/ckpt-" in name), None)
    if collection is None:
        return {}
    entity, project, name = collection.split("/")
    content = wandb.content(wandb.artifact(entity, project, f"{name}:latest"))["stage_status.json"]
    status: dict[str, Any] = json.loads(content)
    return status


def final_weights(wandb: WandbServer) -> dict[str, str]:
    """sha256 of each checkpoint, as the newest set in W&B names them."""
    return {
        file: known["sha256"]
        for record in newest_status(wandb).get("stages", {}).values()
        for file, known in (record.get("files") or {}).items()
    }
