"""How time and memory grow: evaluation with trajectories and members, a training step with points and tokens.

    make bench-growth

Every case is a process of its own on one thread. Exponents are taken from the smallest to the largest size, of seconds
of CPU and of what the case raises the process's peak memory by; 1 is in proportion.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from harness.bench.problems import ROOT, machine
from harness.bench.scale import CPU, data_for
from tasks.services.run.code_version import code_version
from tasks.services.stages.result_rows import ResultRow, write_row
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.data.fields import Fields
from ups_models.evaluation.evaluate import evaluate
from ups_models.evaluation.inputs import EvalData, Models
from ups_models.stages.registry import STAGES
from ups_models.stages.stage import expect
from ups_models.training.state import start_state
from ups_models.training.steps import Steps

SIZES: Mapping[str, tuple[int, ...]] = {
    "trajectories": (128, 512, 2048),
    "members": (8, 32, 128),
    "points": (128, 512, 2048),
    "tokens": (16, 32, 128),
}
BARS: Mapping[str, float] = {"trajectories": 1.05, "members": 1.05, "points": 1.25, "tokens": 1.25}
STEPS, TIMES, POINTS = 5, 41, 256
SECONDS, MEGABYTES = "CPU s", "MB"
KEPT = ROOT / "docs" / "results" / "growth" / "growth-seed0.json"


def main() -> None:
    """Measure every case, print the table, and keep the figures where all were measured."""
    parser = argparse.ArgumentParser(prog="bench-growth", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[*SIZES], default=[*SIZES])
    parser.add_argument("--to", type=Path, help=f"keep the figures as a row in this file ({KEPT.relative_to(ROOT)})")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        kind, size = arguments.case
        print(json.dumps(measure(kind, int(size))))
        return
    figures: dict[str, float] = {}
    for kind in arguments.only:
        for size in SIZES[kind]:
            figures[_name(kind, size, SECONDS)], figures[_name(kind, size, MEGABYTES)] = in_a_process(kind, size)
    print(growth_table(figures), end="")
    if arguments.to is not None and arguments.only == [*SIZES]:
        command = "make bench-growth"
        write_row(arguments.to, ResultRow(command=command, commit=code_version(), machine=machine(), figures=figures))


def growth_table(figures: Mapping[str, float]) -> str:
    """A line for each kind that was measured: its sizes, what they took, and the exponents beside their bar."""
    lines = ["| what grows | sizes | CPU s | exponent | MB | exponent | bar |", "|---" * 7 + "|"]
    for kind, sizes in SIZES.items():
        if _name(kind, sizes[0], SECONDS) not in figures:
            continue
        seconds, memory = ([figures[_name(kind, size, unit)] for size in sizes] for unit in (SECONDS, MEGABYTES))
        ratio = math.log(sizes[-1] / sizes[0])
        times, bytes_ = (math.log(values[-1] / values[0]) / ratio for values in (seconds, memory))
        columns = (
            ", ".join(str(size) for size in sizes),
            ", ".join(f"{value:.2f}" for value in seconds),
            f"{times:.2f}",
            ", ".join(f"{value:.0f}" for value in memory),
            f"{bytes_:.2f}",
            f"{BARS[kind]:g}",
        )
        lines.append(f"| {kind} | {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def _name(kind: str, size: int, unit: str) -> str:
    return f"{size} {kind}, {unit}"


def in_a_process(kind: str, size: int) -> tuple[float, float]:
    """Seconds and MB of a case, measured where nothing else was."""
    command = [sys.executable, "-m", "harness.bench.growth", "--case", kind, str(size)]
    seconds, memory = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return seconds, memory


def measure(kind: str, size: int) -> tuple[float, float]:
    """In this process, which has done nothing else."""
    torch.set_num_threads(1)
    work = prepared(kind, size)
    before, began = _peak(), time.process_time()
    work()
    return time.process_time() - began, max(_peak() - before, 0.1)


def prepared(kind: str, size: int) -> Callable[[], object]:
    """What a case does, with everything loaded that it needs."""
    if kind in ("points", "tokens"):
        return steps_of(points=size if kind == "points" else 1024, tokens=size if kind == "tokens" else 16)
    if kind == "members":
        settings = EvalConfig(trajectories=8, members=size, one_step_pairs=64, student_steps=(1,))
    else:
        settings = EvalConfig(trajectories=size, rollout_steps=TIMES - 1)
    cfg = config(points=POINTS, tokens=32)
    torch.manual_seed(0)
    operator, teacher = (STAGES[name].build(cfg).requires_grad_(False) for name in ("operator", "diff_residual"))
    models = Models.of({"operator": operator} | ({"diff_residual": teacher} if kind == "members" else {}))
    data = EvalData(rows(cfg, settings.trajectories))
    return lambda: evaluate(cfg, settings, models, data, device=CPU)


def steps_of(*, points: int, tokens: int) -> Callable[[], object]:
    """A few training steps of the operator."""
    cfg, stage = config(points=points, tokens=tokens), STAGES["operator"]
    data = data_for(cfg, "operator")
    state, steps = start_state(stage, cfg, data, {}, CPU), Steps(stage, cfg, data, {}, CPU)
    return lambda: [steps.take(state) for _ in range(STEPS)]


def config(*, points: int, tokens: int) -> PipelineConfig:
    """Of the quickstart's kind."""
    return PipelineConfig.model_validate(
        {
            "data": {"problem": "burgers1d", "points": points},
            "latent": {"dim": 4, "tokens": tokens},
            "operator": {"width": 64, "blocks": 3, "codec_blocks": 1, "modes": 9, "reencode_every": 1},
            "denoiser": {"width": 64, "blocks": 3, "modes": 9, "scale_groups": 4},
            "stages": {"operator": {"unroll": [1], "batch_size": 64, "min_batch_size": 64}},
        }
    )


def rows(cfg: PipelineConfig, n: int) -> Fields:
    """So many different trajectories."""
    few = expect(data_for(cfg, "operator"), Fields)
    u = torch.randn(n, TIMES, 1, cfg.data.grid[0], generator=torch.Generator().manual_seed(0))
    parameters = few.parameters[:1].expand(n, -1)
    return replace(few, stored=u, t=0.1 * torch.arange(TIMES), parameters=parameters, row=torch.arange(n))


def _peak() -> float:
    """MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
