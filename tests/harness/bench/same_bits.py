"""Whether this working tree computes what another revision does, to the last bit.

Both train and evaluate one config, each interrupted once in diff_residual and resumed; then a run that the other
revision left half-way is resumed here. Every tensor of every checkpoint, every number of both evaluations and every row
of the loss history must be the same. Ends with 1 on the smallest difference, and where there was nothing to compare.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flows import ROOT

STOP_IN, POLL_S, WITHIN_S = "diff_residual", 0.02, 1800.0
PREEMPTED = 75
CLOCKS = ("created_at", "config_yaml", "checkpoints")
"""What a result says of its making: times, the config as text, digests of files whose headers name fingerprints."""
RENAMED = {"gates": "checks"}
"""What the second edition calls otherwise."""


def main() -> int:
    """Run here and there, compare, and tell."""
    parser = argparse.ArgumentParser(prog="harness.bench.same_bits", description=__doc__)
    parser.add_argument("--base", default="c55f375", help="revision to compare with")
    parser.add_argument("--config", default="configs/smoke.yaml", help="what to train, in both")
    parser.add_argument("--perturb-seed", action="store_true", help="train another seed here: must end red")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="same-bits-") as scratch:
        folder = Path(scratch)
        base = checked_out(arguments.base, folder / "base-code")
        seed = ("--set", "seed=12345") if arguments.perturb_seed else ()
        theirs, ours = folder / "theirs", folder / "ours"
        half_way = train(base, arguments.config, theirs, keep_half_way=folder / "half-way")
        train(ROOT, arguments.config, ours, *seed)
        resume(ROOT, arguments.config, half_way)
        pairs = {f"{arguments.base} and here": ours, f"{arguments.base}'s half-way run, resumed here": half_way}
        failures = [text for name, other in pairs.items() for text in report(name, theirs, other)]
    for text in failures[:20]:
        print(f"DIFFERENT: {text}")
    print("different" if failures else "the same bits")
    return 1 if failures else 0


def checked_out(revision: str, folder: Path) -> Path:
    """A clone of this repository at a revision; fetched from its origin where this clone is too shallow to hold it."""
    git = ("git", "-C", str(ROOT))
    if subprocess.run([*git, "cat-file", "-e", f"{revision}^{{commit}}"], check=False, capture_output=True).returncode:
        unshallow = ["--unshallow"] if (ROOT / ".git" / "shallow").exists() else []
        subprocess.run([*git, "fetch", "--quiet", *unshallow, "origin"], check=True)
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(ROOT), str(folder)], check=True)
    commit = subprocess.run([*git, "rev-parse", revision], check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run(["git", "-C", str(folder), "checkout", "--quiet", "--detach", commit], check=True)
    return folder


def train(code: Path, config: str, run: Path, *more: str, keep_half_way: Path | None = None) -> Path:
    """Train until the second stage, stop by SIGTERM, and resume; returns where a copy of the half-way run was kept."""
    run.mkdir()
    process = subprocess.Popen(command(code, config, *more), cwd=run, env=environment(run), **quiet(run))
    deadline = time.monotonic() + WITHIN_S
    while not is_half_way(run) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(POLL_S)
    process.send_signal(signal.SIGTERM)
    if process.wait(WITHIN_S) != PREEMPTED:
        raise SystemExit(f"{code.name}: ended with {process.returncode}, not preempted\n{said(run)}")
    if keep_half_way is not None:
        shutil.copytree(run, keep_half_way)
    resume(code, config, run, *more)
    return keep_half_way or run


def resume(code: Path, config: str, run: Path, *more: str) -> None:
    """Train and evaluate to the end."""
    done = subprocess.run(
        command(code, config, "--auto-resume", *more), cwd=run, env=environment(run), check=False, **quiet(run)
    )
    if done.returncode:
        raise SystemExit(f"{code.name}: ended with {done.returncode}\n{said(run)}")


def command(code: Path, config: str, *more: str) -> list[str]:
    """The pipeline of a revision, in this environment of packages."""
    return [sys.executable, str(code / "flows" / "pipeline.py"), "--config", config, *more]


def environment(run: Path) -> dict[str, str]:
    """Nothing of the user's: no tracking, no Prefect server, one thread, so that nothing but the code differs."""
    apart = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "WANDB_", "UPS_"))}
    apart.pop("PYTHONPATH", None)
    return apart | {"WANDB_MODE": "disabled", "PREFECT_HOME": str(run / ".prefect"), "DO_NOT_TRACK": "1"}


def quiet(run: Path) -> dict[str, Any]:
    """Everything that a process says goes into one file."""
    log = (run / "log").open("ab")
    return {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}


def said(run: Path) -> str:
    """The end of that file."""
    return (run / "log").read_text("utf-8")[-2000:]


def is_half_way(run: Path) -> bool:
    """Whether the second stage has begun and made steps."""
    history = run / "reports" / "metrics.jsonl"
    return history.exists() and f'"{STOP_IN}"' in history.read_text("utf-8")


def report(name: str, theirs: Path, ours: Path) -> list[str]:
    """Print how much was compared; what differs. Nothing compared is a difference too."""
    kinds = {"tensors": tensors, "numbers": numbers, "arrays": arrays, "rows of the loss history": rows}
    failures = []
    for kind, read in kinds.items():
        base, here = dict(read(theirs)), dict(read(ours))
        wrong = [text for key in base.keys() | here.keys() if (text := difference(base.get(key), here.get(key), key))]
        print(f"{name}: {len(base)} {kind}, {len(wrong)} different")
        failures += wrong or ([] if base else [f"{name}: no {kind} to compare"])
    return failures


def tensors(run: Path) -> Iterator[tuple[str, Any]]:
    """Every tensor of every checkpoint, by file and name."""
    for path in sorted((run / "checkpoints").glob("*.pt")):
        for name, value in torch.load(path, map_location="cpu", weights_only=True)["state_dict"].items():
            yield f"{path.name}: {name}", value


def numbers(run: Path) -> Iterator[tuple[str, Any]]:
    """Every number and word of both evaluations, by path."""
    for name in ("small_eval", "full_eval"):
        result = json.loads((run / "reports" / f"{name}.json").read_text("utf-8"))
        yield from leaves({key: value for key, value in result.items() if key not in CLOCKS}, name)


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The numbers of a nested result; what has another name in the second edition under that one."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}/{RENAMED.get(key, key)}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from leaves(item, f"{path}/{number}")
    elif isinstance(value, int | float) and not path.endswith("schema_version"):
        yield path, value


def arrays(run: Path) -> Iterator[tuple[str, Any]]:
    """Every array that a figure is drawn from."""
    for name in ("small_eval", "full_eval"):
        with np.load(run / "reports" / f"{name}.npz", allow_pickle=False) as stored:
            for key in stored.files:
                yield f"{name}.npz: {key}", stored[key]


def rows(run: Path) -> Iterator[tuple[str, Any]]:
    """The loss history, by stage and step; a step that was done again counts once."""
    for line in (run / "reports" / "metrics.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        yield f"{row['stage']} step {row['step']}", row


def difference(base: Any, here: Any, key: str) -> str | None:
    """What is not the same, in words; None where nothing is."""
    if base is None or here is None:
        return f"{key} is missing {'there' if base is None else 'here'}"
    if isinstance(base, torch.Tensor):
        base, here = base.numpy(), here.numpy()
    if isinstance(base, np.ndarray):
        if base.dtype != here.dtype or base.shape != here.shape:
            return f"{key} is {base.dtype}{base.shape} there and {here.dtype}{here.shape} here"
        if base.tobytes() == here.tobytes():
            return None
        largest = np.abs(base.astype(float) - here.astype(float)).max() if base.dtype.kind == "f" else "no number"
        return f"{key}, largest difference {largest}"
    return None if base == here else f"{key} is {base!r} there and {here!r} here"


if __name__ == "__main__":
    sys.exit(main())
