"""What W&B costs: steps per second of the quickstart's operator, and seconds of its start, by mode, in turn."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.emulators.wandb.server import WandbServer, client_environment

ROOT = Path(__file__).resolve().parents[3]
MODES = ("none", "disabled", "offline", "online")
CHILD = """
import json, sys, time
from pathlib import Path
from tasks.services.run.lock import owned
from tasks.services.run.paths import RunDir
from tasks.services.tracking.opening import tracked
from tasks.services.tracking.run_path import ResumeTarget
from tasks.services.tracking.tracker import Tracker
from tasks.services.stages.training import train_stage_files
from ups_models.config.loading import load_config
from ups_models.config.schema import PipelineConfig
from contextlib import nullcontext

mode, steps, root = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
overrides = ["data.generate.n=256", "stages.operator.epochs=1", f"stages.operator.steps_per_epoch={steps}",
             "stages.operator.unroll=[1]", f"tracking.mode={'disabled' if mode == 'none' else mode}"]
cfg = load_config(Path(sys.argv[4]), overrides, schema=PipelineConfig)
run = RunDir.of(root, cfg.checkpoint.dir)
with owned(run) as own:
    started = time.monotonic()
    with nullcontext(Tracker()) if mode == "none" else tracked(cfg, own, ResumeTarget()) as tracker:
        opened = time.monotonic()
        train_stage_files("operator", cfg, own, fresh=True, tracker=tracker)
        trained = time.monotonic()
from tasks.services.run.status import read_status
seconds = read_status(run.status).stage("operator").seconds
print(json.dumps({"start_s": opened - started, "steps_per_s": steps / seconds, "end_s": time.monotonic() - trained}))
"""


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "quickstart.yaml")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    with WandbServer() as server, tempfile.TemporaryDirectory() as scratch:
        for number in range(arguments.rounds):
            for mode in MODES:
                root = Path(scratch) / f"{mode}{number}"
                root.mkdir()
                line = one(mode, arguments, root, server.url)
                found[mode].append(json.loads(line))
    base = statistics.median(item["steps_per_s"] for item in found["none"])
    print(f"{'mode':<10}{'steps/s':>9}{'from':>8}{'to':>8}{'of none':>9}{'start s':>9}{'end s':>8}")
    for mode, items in found.items():
        rates = [item["steps_per_s"] for item in items]
        start, end = (statistics.median(item[key] for item in items) for key in ("start_s", "end_s"))
        rate = statistics.median(rates)
        print(f"{mode:<10}{rate:>9.2f}{min(rates):>8.2f}{max(rates):>8.2f}{rate / base:>9.3f}{start:>9.2f}{end:>8.2f}")


def one(mode: str, arguments: argparse.Namespace, root: Path, url: str) -> str:
    """Train once in a process of its own, so that each mode pays for its own imports; its line of figures."""
    environment = {**os.environ, **client_environment(url, root), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CHILD, mode, str(arguments.steps), str(root), str(arguments.config)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{mode}: {done.stderr}")
    return done.stdout.splitlines()[-1]


if __name__ == "__main__":
    main()
