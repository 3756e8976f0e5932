"""The parts of the proof: each is a function of a bench that returns its rows, and whether all is well."""

import itertools
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.bench.scale import KOLMOGOROV, SMALL, ours, prepared, sha_of
from harness.worlds import in_world
from ups_models.stages.registry import STAGES
from ups_models.stages.stage import LossInput
from ups_models.training.ema import ema_update
from ups_models.training.optim import gradient
from ups_models.training.steps import Steps

Result = dict[str, Any]
LARGE: dict[str, Any] = {
    **KOLMOGOROV,
    "operator": {**KOLMOGOROV["operator"], "width": 128},
    "denoiser": {**KOLMOGOROV["denoiser"], "width": 128},
    "stages": {"operator": {"unroll": [1, 4], "batch_size": 64, "min_batch_size": 64}},
}


@dataclass(frozen=True)
class Bench:
    """Where and how large the parts are run."""

    device: torch.device
    settings: Mapping[str, Any]
    steps: int
    kills: int
    victim_steps: int

    @classmethod
    def on(cls, device: torch.device) -> "Bench":
        """Small on a CPU."""
        return cls(device, LARGE, 50, 20, 1000) if device.type == "cuda" else cls(device, SMALL, 4, 2, 150)

    def runtime(self, **settings: object) -> dict[str, Any]:
        """The settings with others of `runtime`."""
        return {**self.settings, "runtime": settings}

    def wait(self) -> None:
        """For the kernels that were started."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def stages(bench: Bench) -> Result:
    """Every stage in float32 and bfloat16, kernel by kernel and compiled: finite, and the same bits when run again."""
    rows = []
    compiled = (False, True) if bench.device.type == "cuda" else (False,)
    for name, precision, is_compiled in itertools.product(STAGES, ("float32", "bfloat16"), compiled):
        settings = bench.runtime(precision=precision, compile=is_compiled)
        shas, milliseconds, loss = [], 0.0, 0.0
        for _ in range(2):
            cfg, data, frozen, state = prepared(settings, name, 1, bench.device)
            training = Steps(STAGES[name], cfg, data, frozen, bench.device)
            training.take(state)
            bench.wait()
            began = time.perf_counter()
            for _ in range(bench.steps):
                loss = training.take(state, check=False).loss.item()
            milliseconds = 1e3 * (time.perf_counter() - began) / bench.steps
            shas.append(sha_of(state))
        kernels = "compiled" if is_compiled else "one by one"
        same = shas[0] == shas[1] and math.isfinite(loss)
        row = {"stage": name, "precision": precision, "kernels": kernels, "ms a step": round(milliseconds, 2)}
        rows.append({**row, "loss": f"{loss:.4g}", "same bits again": same})
    return {"what": "four stages, twice each", "rows": rows, "well": all(row["same bits again"] for row in rows)}


def kills(bench: Bench) -> Result:
    """A training that is killed again and again ends with the weights of one that is not."""
    rng, number = random.Random(0), 0
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="gpu-kills-") as folder:
        expected = _to_its_end(_victim(Path(folder, "undisturbed"), bench))
        while number < bench.kills:
            run, done = Path(folder, f"run{len(rows)}"), 0
            while number + done < bench.kills and _is_killed(_victim(run, bench), rng):
                done += 1
            number += done
            sha = _to_its_end(_victim(run, bench))
            rows.append({"run": len(rows), "kills": done, "sha256": sha[:12], "as undisturbed": sha == expected})
    well = all(row["as undisturbed"] for row in rows)
    return {"what": f"{number} kills of one training", "rows": rows, "well": well}


def _victim(run: Path, bench: Bench) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "harness.gpu.victim", str(run), str(bench.device), str(bench.victim_steps)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)


def _is_killed(victim: "subprocess.Popen[str]", rng: random.Random) -> bool:
    """Kill it a moment after its first step; False where it had ended before."""
    begun = victim.stdout.readline() if victim.stdout is not None else ""
    time.sleep(rng.uniform(0, 0.5))
    is_alive = bool(begun) and victim.poll() is None
    victim.kill()
    victim.communicate()
    return is_alive


def _to_its_end(victim: "subprocess.Popen[str]") -> str:
    """The sha256 that it prints last."""
    output, _ = victim.communicate(timeout=300)
    return output.split()[-1] if victim.returncode == 0 else f"exit code {victim.returncode}"


def ranks(bench: Bench) -> Result:
    """Several processes on one device, and one: the same weights."""
    rows, settings = [], dict(bench.settings)
    for name in STAGES:
        shas = [in_world(n, ours, settings, name, 4, bench.steps // 2, bench.device)[0].sha for n in (1, 2)]
        rows.append({"stage": name, "one process": shas[0][:12], "two": shas[1][:12], "same": shas[0] == shas[1]})
    return {"what": "two processes on one device, by gloo", "rows": rows, "well": all(row["same"] for row in rows)}


def speed(bench: Bench) -> Result:
    """Steps a second there and on the CPU."""
    rows = []
    for name in STAGES:
        rates = []
        for device in (torch.device("cpu"), bench.device):
            cfg, data, frozen, state = prepared(dict(bench.settings), name, 1, device)
            training = Steps(STAGES[name], cfg, data, frozen, device, ahead=device.type == "cuda")
            steps = bench.steps if device.type == "cuda" else max(2, bench.steps // 10)
            training.take(state)
            bench.wait()
            began = time.perf_counter()
            for _ in range(steps):
                training.take(state, check=False)
            bench.wait()
            rates.append(steps / (time.perf_counter() - began))
        cpu, there = rates
        row = {"CPU, steps/s": round(cpu, 2), "there": round(there, 2), "ratio": round(there / cpu, 2)}
        rows.append({"stage": name, **row})
    return {"what": "throughput beside the CPU's threads", "rows": rows, "well": True}


class Launches(TorchDispatchMode):
    """Counts operations that launch a kernel: what only looks at memory otherwise does not."""

    VIEWS = frozenset(
        {
            *("view", "_unsafe_view", "reshape", "t", "transpose", "permute", "expand", "slice", "select", "split"),
            *("split_with_sizes", "unbind", "unsqueeze", "squeeze", "detach", "alias", "as_strided", "lift_fresh"),
        }
    )

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation."""
        self.count += func.overloadpacket.__name__ not in self.VIEWS
        return func(*args, **(kwargs or {}))


def split(bench: Bench) -> Result:
    """Where the time of a step goes, how many kernels it launches, and the memory at its peak."""
    rows = []
    for name in STAGES:
        cfg, data, frozen, state = prepared(dict(bench.settings), name, 1, bench.device)
        training = Steps(STAGES[name], cfg, data, frozen, bench.device)
        training.take(state)
        if bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(bench.device)
        times = [_parts_of_a_step(training, state, bench) for _ in range(bench.steps)]
        medians = {part: round(1e3 * statistics.median(one[part] for one in times), 2) for part in times[0]}
        with Launches() as launches:
            training.take(state)
        peak = torch.cuda.max_memory_allocated(bench.device) / 1e6 if bench.device.type == "cuda" else float("nan")
        rows.append({"stage": name, **medians, "kernels": launches.count, "peak, MB": round(peak, 1)})
    return {"what": "ms of the parts of a step", "rows": rows, "well": True}


def _parts_of_a_step(training: Steps, state: Any, bench: Bench) -> dict[str, float]:
    """Seconds of each; the device is waited for between them."""
    stamps = [time.perf_counter()]

    def stamp() -> None:
        bench.wait()
        stamps.append(time.perf_counter())

    batch = training.sample_batch(state.step)
    stamp()
    rng = torch.Generator(bench.device).manual_seed(state.step)
    loss: Tensor = training.loss_of(LossInput(state.net, state.ema, training.frozen, batch, 0.5, rng))
    stamp()
    gradient(loss, state.net)
    stamp()
    torch.nn.utils.clip_grad_norm_(state.net.parameters(), training.settings.grad_clip)
    state.optimiser.step()
    state.step += 1
    stamp()
    ema_update(state.ema, state.net, training.settings.ema_decay, state.step)
    stamp()
    names = ("batch", "forward", "backward", "optimiser", "average")
    return {name: after - before for name, (before, after) in zip(names, itertools.pairwise(stamps), strict=True)}


PARTS: Mapping[str, Callable[[Bench], Result]] = {
    "stages": stages,
    "kills": kills,
    "ranks": ranks,
    "speed": speed,
    "split": split,
}
