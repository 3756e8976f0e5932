"""What saving costs: steps per second of the quickstart's operator with resume saving on and off, in turn.

With `--megabytes 662` instead: how long a loop waits for a state of that size to be copied, while the one before is
written by a thread, and what its steps take meanwhile.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from tasks.services.run.paths import RunDir
from tasks.services.stages.inputs import select_device, training_data
from ups_models.config.loading import load_config
from ups_models.config.schema import PipelineConfig
from ups_models.stages.lineage import Lineage
from ups_models.stages.registry import STAGES
from ups_models.training.ema import ema_copy
from ups_models.training.loop import Hooks, fit
from ups_models.training.parallel import World
from ups_models.training.saving import Saver
from ups_models.training.state import COPIES_SAVED, TrainState

ROOT = Path(__file__).resolve().parents[3]
NEVER_S = 86_400.0
WORKS = 200
"""Steps that are timed without a writer, after each save."""


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "quickstart.yaml")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--every-s", type=float, default=3.0, help="interval of the run that saves often")
    parser.add_argument("--megabytes", type=float, help="only: a state so large, saved beside steps of a product")
    arguments = parser.parse_args()
    if arguments.megabytes is not None:
        print(waits(arguments.megabytes, arguments.rounds))
        return
    cfg = load_config(arguments.config, ["data.generate.n=256"], schema=PipelineConfig)
    device = select_device(cfg)
    with tempfile.TemporaryDirectory() as directory:
        run = RunDir.of(Path(directory), Path("checkpoints"))
        data = training_data(STAGES["operator"].spec, cfg, run)
        rates: dict[float, list[float]] = {NEVER_S: [], arguments.every_s: []}
        for _ in range(arguments.rounds):
            for interval, measured in rates.items():
                measured.append(steps_per_second(cfg, data, device, run, arguments.steps, interval))
    off, often = (statistics.median(values) for values in rates.values())
    lost_s = (1 / often - 1 / off) * often * arguments.every_s
    default_s = cfg.checkpoint.save_every_s
    print(f"saving off:                {off:.2f} steps/s (from {min(rates[NEVER_S]):.2f} to {max(rates[NEVER_S]):.2f})")
    print(f"saving every {arguments.every_s:g} s:         {often:.2f} steps/s, {often / off:.4f} of off")
    print(f"one save costs {max(lost_s, 0) * 1000:.0f} ms; at the default of every {default_s:g} s: ", end="")
    print(f"{1 - max(lost_s, 0) / default_s:.5f} of off")


def steps_per_second(
    cfg: PipelineConfig, data: object, device: torch.device, run: RunDir, steps: int, interval: float
) -> float:
    """Throughput of so many steps of stage operator."""
    stage, path = STAGES["operator"], run.resume("bench")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    settings = cfg.stages.operator.model_copy(update={"epochs": 1, "steps_per_epoch": steps, "unroll": (1,)})
    stages = cfg.stages.model_copy(update={"operator": settings})
    checkpoint = cfg.checkpoint.model_copy(update={"save_every_s": interval})
    timed = cfg.model_copy(update={"stages": stages, "checkpoint": checkpoint})
    started = time.monotonic()
    fit(
        stage,
        timed,
        data,  # type: ignore[arg-type]  # what training_data returned
        {},
        device=device,
        resume_path=path,
        lineage=Lineage.of(stage.spec, timed, {}),
        hooks=Hooks(),
        world=World(),
    )
    return steps / (time.monotonic() - started)


def waits(megabytes: float, rounds: int) -> str:
    """Of a training whose state is so large: what the loop waits, and its steps with and without a writer beside."""
    width = int((1e6 * megabytes / 4 / COPIES_SAVED) ** 0.5)
    net = nn.Linear(width, width, bias=False)
    state = TrainState(net, ema_copy(net), torch.optim.AdamW(net.parameters()))
    net(torch.ones(1, width)).sum().backward()
    state.optimiser.step()
    lineage = Lineage.of(STAGES["operator"].spec, PipelineConfig(), {})
    copying: list[float] = []
    steps: dict[bool, list[float]] = {False: [], True: []}
    with (
        tempfile.TemporaryDirectory() as folder,
        Saver[int](Path(folder, "state.pt"), lineage, with_previous=True) as saver,
    ):
        saver.make_room(state)
        steps[False] += [_seconds_of_work() for _ in range(WORKS)]
        for number in range(rounds):
            began = time.monotonic()
            saver.save(state, number)
            copying.append(time.monotonic() - began)
            while saver.written() is None:
                steps[True].append(_seconds_of_work())
            steps[False] += [_seconds_of_work() for _ in range(WORKS)]
    alone, beside = (1e3 * statistics.median(steps[is_beside]) for is_beside in (False, True))
    return (
        f"a state of {megabytes:g} MB: the loop waits {1e3 * statistics.median(copying):.0f} ms "
        f"(to {1e3 * max(copying):.0f}); a step {alone:.1f} ms alone, {beside:.1f} ms while it is written "
        f"(longest {1e3 * max(steps[True]):.0f} ms)"
    )


def _seconds_of_work() -> float:
    began = time.monotonic()
    one = torch.ones(512, 512)
    for _ in range(4):
        one = one @ one
    return time.monotonic() - began


if __name__ == "__main__":
    main()
