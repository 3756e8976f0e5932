"""`python -m chaos.demo`: a training on rented machines, outbid in the middle, on loopback from end to end."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos.checks import outcome
from flows import ROOT
from loopback.vast_emulator import VastEmulator
from loopback.wandb_server import WandbServer
from tasks.services.run_dir import RunDir
from ups_models.specs import SPECS

RUN = "demo"
SETTINGS = (
    "stages.operator.steps_per_epoch=300",
    "tracking.upload_every_s=1",
    "checkpoint.save_every_steps=20",
    "runtime.device=cpu",
)
TIMEOUT_S = 600
VAST_KEY, WANDB_KEY = "vastcanary0key0that0nobody0must0ever0find", "wandbcanary0key0nobody0must0ever0find000f"


@dataclass
class Seen:
    """What a remote training came to."""

    code: int
    machines: int
    live: int
    usd: float
    preempted: int
    identical: bool
    most_live: int
    lines: list[str] = field(default_factory=list)


def train_remotely(scratch: Path, *, preemptions: int, say: Callable[[str], None], extra: tuple[str, ...] = ()) -> Seen:
    """Launch on the emulator, take the machine away `preemptions` times once it has uploaded anew, and compare."""
    environment = _environment(scratch)
    reference = _undisturbed(scratch, environment)
    say("undisturbed run: done, for comparison")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (
        WandbServer() as wandb,
        VastEmulator(
            scratch / "cloud", api_key=VAST_KEY, instance_path=path, instance_env={"OMP_NUM_THREADS": "1"}
        ) as cloud,
    ):
        cloud.faults.auto_resume_delay_s = None
        cloud.default_market()
        environment |= {"WANDB_BASE_URL": wandb.url, "VAST_URL": cloud.url}
        launch = _launch(scratch, environment, extra)
        preempted, sets, most_live = 0, 0, 0
        deadline = time.monotonic() + TIMEOUT_S
        while launch.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
            live, committed = cloud.live(), _sets(wandb)
            most_live = max(most_live, len(live))
            if preempted < preemptions and live and committed >= sets + 2 and live[0].state == "running":
                say(f"instance {live[0].id} is outbid: its processes are killed")
                cloud.preempt(live[0].id)
                preempted, sets = preempted + 1, committed
        if launch.poll() is None:
            launch.kill()
        code = launch.wait()
        lines = (scratch / "launch.log").read_text("utf-8").splitlines()
        weights = _final_weights(wandb)
        machines, left, usd = len(cloud.instances), len(cloud.live()), cloud.cost()
    return Seen(code, machines, left, usd, preempted, weights == reference, most_live, lines)


def main() -> int:
    """Run and tell."""
    parser = argparse.ArgumentParser(prog="chaos.demo", description=__doc__)
    parser.add_argument("--preemptions", type=int, default=1, help="times the machine is taken away")
    arguments = parser.parse_args()
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="demo-") as directory:
        seen = train_remotely(Path(directory), preemptions=arguments.preemptions, say=say)
    for line in seen.lines:
        print(f"          {line}")
    say(f"exit code {seen.code}; {seen.machines} machines rented, {seen.most_live} at a time, {seen.live} left")
    say(f"ledger: {seen.usd:.6f} USD")
    say(f"final weights {'identical to' if seen.identical else 'DIFFERENT from'} the undisturbed run")
    return 0 if seen.code == 0 and seen.identical and not seen.live else 1


def _environment(scratch: Path) -> dict[str, str]:
    home = scratch / "home"
    home.mkdir()
    folders = {f"WANDB_{name}_DIR": str(scratch / "wandb" / name) for name in ("CACHE", "CONFIG", "DATA")}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "WANDB_"))}
    return {
        **inherited,
        **folders,
        "HOME": str(home),
        "NETRC": str(home / "netrc"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "VAST_API_KEY": VAST_KEY,
        "WANDB_API_KEY": WANDB_KEY,
        "WANDB_MODE": "online",
        "WANDB_ERROR_REPORTING": "false",
    }


def _arguments() -> list[str]:
    return ["--config", "configs/smoke.yaml", *(word for setting in SETTINGS for word in ("--set", setting))]


def _undisturbed(scratch: Path, environment: dict[str, str]) -> dict[str, str]:
    root = scratch / "undisturbed"
    root.mkdir()
    command = [sys.executable, str(ROOT / "flows" / "pipeline.py"), *_arguments(), "--run-dir", str(root)]
    subprocess.run(
        command,
        check=True,
        cwd=ROOT,
        env={**environment, "WANDB_MODE": "disabled"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    found = outcome(RunDir.of(root, Path("checkpoints")))
    return {name: found[name] for spec in SPECS.values() for name in spec.files}


def _launch(scratch: Path, environment: dict[str, str], extra: tuple[str, ...]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flows.cli", "launch", *_arguments(), "--run-dir", str(scratch / "run")]
    quick = ["--poll-s", "1", "--lost-after-s", "2", "--max-price", "1", "--resume-from-wandb", RUN]
    with (scratch / "launch.log").open("ab") as log:
        return subprocess.Popen([*command, *quick, *extra], cwd=ROOT, env=environment, stdout=log, stderr=log)


def _sets(wandb: WandbServer) -> int:
    sets = next((found for name, found in wandb.artifacts.items() if name.endswith(f"/ckpt-{RUN}")), [])
    return sum(one.version is not None for one in sets)


def _final_weights(wandb: WandbServer) -> dict[str, str]:
    """sha256 of each checkpoint, as the newest set in W&B names them."""
    collection = next((name for name in wandb.artifacts if name.endswith(f"/ckpt-{RUN}")), None)
    if collection is None:
        return {}
    entity, project, name = collection.split("/")
    status = json.loads(wandb.content(wandb.artifact(entity, project, f"{name}:latest"))["stage_status.json"])
    return {
        file: known["sha256"]
        for record in status["stages"].values()
        for file, known in (record.get("files") or {}).items()
    }


if __name__ == "__main__":
    sys.exit(main())
