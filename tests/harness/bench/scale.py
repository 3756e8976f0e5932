"""Several processes beside one: the same weights, what a step costs over plain data parallelism, how much faster it is.

    make bench-scale ARGS="--steps 20 --rounds 3"

Every process has one thread. Times of one table are measured in turns, round by round; the machine should be idle.
"""

import argparse
import hashlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from harness.worlds import in_world
from ups_models.config.schema import PipelineConfig
from ups_models.data.fields import Fields, SteadyFields
from ups_models.nn.weights import weights_of
from ups_models.stages.registry import STAGES
from ups_models.stages.stage import Data, LossInput
from ups_models.training.optim import learning_rate, set_learning_rate
from ups_models.training.parallel import World
from ups_models.training.seeds import derive_seed
from ups_models.training.state import TrainState, start_state
from ups_models.training.steps import Steps

CPU = torch.device("cpu")
ROWS, TIMES, WARM, SHA_STEPS = 16, 4, 2, 6
KOLMOGOROV: dict[str, Any] = {
    "data": {"problem": "kolmogorov2d", "points": 64},
    "latent": {"dim": 2, "tokens": 16},
    "operator": {"width": 32, "blocks": 3, "codec_blocks": 2, "modes": 6, "reencode_every": 1},
    "denoiser": {"width": 32, "blocks": 2, "modes": 6, "scale_groups": 2},
    "stages": {"operator": {"unroll": [1], "batch_size": 16, "min_batch_size": 8}},
}
SMALL: dict[str, Any] = {
    "data": {"problem": "burgers1d", "points": 64},
    "steady_data": {"size": 16},
    "latent": {"dim": 4, "tokens": 8},
    "operator": {"width": 16, "blocks": 1, "modes": 5, "reencode_every": 1},
    "denoiser": {"width": 16, "blocks": 1, "modes": 5, "scale_groups": 4},
    "prior": {"channels": 8, "levels": 2},
}


@dataclass(frozen=True)
class Timed:
    """Seconds of a step by the clock and of this process's CPU, and the weights at the end."""

    wall: float
    cpu: float
    sha: str


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="bench-scale", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(same_weights(), flush=True)
    print(threads(), flush=True)
    print(times(arguments.steps, arguments.rounds), flush=True)


def same_weights() -> str:
    """Every stage with 1 to 4 and with 8 processes."""
    lines = ["| stage | 1 | 2 | 3 | 4 | 8 processes |", "|---|---|---|---|---|---|"]
    for name in STAGES:
        shas = [in_world(n, ours, SMALL, name, 8, SHA_STEPS)[0].sha[:12] for n in (1, 2, 3, 4, 8)]
        same = "the same" if len(set(shas)) == 1 else "DIFFERENT"
        lines.append(f"| {name} ({same}) | {' | '.join(shas)} |")
    return "\n".join(lines) + "\n"


def threads() -> str:
    """Every stage with one, two and three threads: what they do to the bits."""
    lines = ["| stage | 1 | 2 | 3 threads |", "|---|---|---|---|"]
    for name in STAGES:
        shas = [in_world(1, on_threads, n, name)[0][:12] for n in (1, 2, 3)]
        lines.append(f"| {name} ({'the same' if len(set(shas)) == 1 else 'different'}) | {' | '.join(shas)} |")
    return "\n".join(lines) + "\n"


def on_threads(world: World, n_threads: int, name: str) -> str:
    """The sha256 of a stage after a few steps with so many threads."""
    torch.set_num_threads(n_threads)
    return ours(world, KOLMOGOROV if name != "steady_prior" else SMALL, name, 1, SHA_STEPS).sha


def times(steps: int, rounds: int) -> str:
    """Steps of the operator on Kolmogorov flow, by the clock."""
    measures: dict[str, Callable[[], list[Timed]]] = {
        "one process": lambda: in_world(1, ours, KOLMOGOROV, "operator", 2, steps),
        "two processes": lambda: in_world(2, ours, KOLMOGOROV, "operator", 2, steps),
        "two processes, DDP of PyTorch": lambda: in_world(2, by_ddp, KOLMOGOROV, "operator", 2, steps),
    }
    found: dict[str, list[Timed]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name] += measure()
    wall = {name: [one.wall for one in timed] for name, timed in found.items()}
    cpu = {name: statistics.median(one.cpu for one in timed) for name, timed in found.items()}
    lines = ["| 64 x 64, 16 rows a step | ms a step | range | CPU ms of a process |", "|---|---|---|---|"]
    for name, values in wall.items():
        spread = f"{1e3 * min(values):.0f} to {1e3 * max(values):.0f}"
        lines.append(f"| {name} | {1e3 * statistics.median(values):.0f} | {spread} | {1e3 * cpu[name]:.0f} |")
    one, two, ddp = (statistics.median(values) for values in wall.values())
    lines.append(f"\ntwo processes: {one / two:.2f} x the throughput of one; {two / ddp:.3f} x the time of DDP")
    return "\n".join(lines)


def ours(
    world: World, settings: dict[str, Any], name: str, shards: int, steps: int, device: torch.device = CPU
) -> Timed:
    """Steps as the training loop makes them."""
    cfg, data, frozen, state = prepared(settings, name, shards, device)
    training = Steps(STAGES[name], cfg, data, frozen, device, world)
    return timed(steps, lambda: training.take(state), state)


def by_ddp(world: World, settings: dict[str, Any], name: str, shards: int, steps: int) -> Timed:
    """The same micro-batches, network and optimiser, with gradients averaged by DistributedDataParallel."""
    cfg, data, frozen, state = prepared(settings, name, shards)
    stage, training = STAGES[name], cfg.stages.of(name)
    loss_of, size = stage.loss(cfg), training.batch_size // shards
    sizes = {"batch_size": size, "min_batch_size": size}
    part = cfg.model_copy(update={"stages": cfg.stages.model_copy(update={name: training.model_copy(update=sizes)})})

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = state.net

        def forward(self, batch: dict[str, Tensor], rng: torch.Generator) -> Tensor:
            return loss_of(LossInput(self.net, state.ema, frozen, batch, 0.5, rng))

    whole = DistributedDataParallel(Loss(), process_group=world.group)

    def step() -> None:
        rng = torch.Generator().manual_seed(derive_seed(state.step, world.rank))
        batch = dict(stage.sample_batch(part, data, 0.5, rng))
        set_learning_rate(state.optimiser, learning_rate(training, state.step))
        state.optimiser.zero_grad(set_to_none=True)
        whole(batch, rng).backward()
        nn.utils.clip_grad_norm_(state.net.parameters(), training.grad_clip)
        state.optimiser.step()
        state.step += 1

    return timed(steps, step, state)


def prepared(
    settings: dict[str, Any], name: str, shards: int, device: torch.device = CPU
) -> tuple[PipelineConfig, Data, dict[str, nn.Module], TrainState]:
    """Config, random data, untrained networks that the stage needs, and its state."""
    cfg = PipelineConfig.model_validate({**settings, "training": {"shards": shards}})
    stage, data = STAGES[name], data_for(cfg, name)
    frozen = {}
    for needed in stage.spec.needs:
        torch.manual_seed(derive_seed("frozen", needed))
        frozen[needed] = STAGES[needed].build(cfg).requires_grad_(False).to(device)
    return cfg, data, frozen, start_state(stage, cfg, data, frozen, device)


def data_for(cfg: PipelineConfig, name: str) -> Data:
    """Random fields of the shape that a stage learns from."""
    rng = torch.Generator().manual_seed(0)
    if STAGES[name].spec.steady:
        a = torch.rand(ROWS, cfg.steady_data.size, cfg.steady_data.size, generator=rng) + 0.1
        return SteadyFields(a, a.cumsum(-1), torch.ones(ROWS), torch.arange(ROWS))
    problem, grid = cfg.data.problem, cfg.data.grid
    u = torch.randn(ROWS, 2 * TIMES, len(problem.channels), *grid, generator=rng)
    parameters = torch.tensor([[one.default for one in problem.parameters]]).expand(ROWS, -1)
    axes = tuple(torch.arange(n) / n for n in grid)
    return Fields(problem, u, axes, 0.1 * torch.arange(2 * TIMES), parameters, torch.arange(ROWS))


def timed(steps: int, step: Callable[[], object], state: TrainState) -> Timed:
    """So many steps after a few that are not counted."""
    for _ in range(WARM):
        step()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Timed(wall / steps, cpu / steps, sha_of(state))


def sha_of(state: TrainState) -> str:
    """Of the weights and of their average."""
    digest = hashlib.sha256()
    for net in (state.net, state.ema):
        for _, value in sorted(weights_of(net).items()):
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
