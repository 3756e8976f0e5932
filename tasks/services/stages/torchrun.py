"""A torchrun that somebody has started: who its processes are, where they meet, and how the others follow the first.

`torchrun --nproc-per-node 4 flows/pipeline.py …`: the first process runs the pipeline and owns the run; the others wait
for its word that a stage begins, and train it with it. All see one run directory.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from tasks.services.run import environment
from tasks.services.run.code_version import code_version
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from tasks.services.stages.inputs import StageInputs, read_stage_inputs, select_device
from ups_models.config.schema import PipelineConfig
from ups_models.errors import BadInput
from ups_models.stages.registry import STAGES
from ups_models.training.joining import JOIN_S, ProcessMissing, announce, identity_of, joined
from ups_models.training.loop import Hooks, fit
from ups_models.training.parallel import World
from ups_models.training.state import TrainState

NEXT_ORDER_S = 24 * 3600.0
"""So long the others wait for the first process, which solves data and evaluates meanwhile."""
END = "end"
_apart: ContextVar[bool] = ContextVar("ups_trains_apart", default=False)


@dataclass
class Orders:
    """What the first process says to the others, in order: names of stages, then the end."""

    store: Store
    count: int = field(default=0, init=False)

    def give(self, stage: str) -> Store:
        """A stage begins; where its processes meet."""
        self.store.set(f"order-{self.count}", stage)
        return self._meeting()

    def wait(self) -> tuple[str, Store]:
        """The next stage, and where its processes meet; END where there is none. Raises ProcessMissing."""
        name = f"order-{self.count}"
        try:
            self.store.wait([name], timedelta(seconds=NEXT_ORDER_S))
        except RuntimeError as error:
            raise ProcessMissing("the first process of torchrun has said nothing for a day, or has ended") from error
        said: bytes = self.store.get(name)
        return said.decode(), self._meeting()

    def _meeting(self) -> Store:
        self.count += 1
        return PrefixStore(f"stage-{self.count}", self.store)


@cache
def orders() -> Orders | None:
    """Those of the torchrun that this process belongs to; None where there is none."""
    _, world_size = environment.world()
    return Orders(store_of_torchrun(world_size)) if world_size > 1 else None


def require_shards(cfg: PipelineConfig) -> None:
    """Raise BadInput where torchrun has more processes than a step has shards."""
    _, world_size = environment.world()
    if world_size > cfg.training.shards:
        raise BadInput(
            f"torchrun started {world_size} processes, but training.shards={cfg.training.shards}: a process computes "
            "whole shards; start fewer, or set more shards, which are another training"
        )


@contextmanager
def world_of_torchrun(stage: str, cfg: PipelineConfig, inputs: StageInputs) -> Iterator[World]:
    """For the first process: the world that trains a stage; this process alone where there is no torchrun."""
    given = None if _apart.get() else orders()
    if given is None:
        yield World()
        return
    require_shards(cfg)
    rank, world_size = environment.world()
    meeting, on_gpu = given.give(stage), has_own_gpu(inputs.device)
    with joined(rank, world_size, meeting, identity_in_words(inputs), on_gpu=on_gpu) as world:
        yield world


@contextmanager
def apart() -> Iterator[None]:
    """Within the block the first process trains alone: what the others do not know of, such as a peer."""
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


def dismiss() -> None:
    """For the first process: nothing more will be trained."""
    if (given := orders()) is not None:
        given.give(END)


def follow(cfg: PipelineConfig, run: RunDir) -> None:
    """For the others: train what the first process trains, until it has nothing more. Raises what `fit` raises."""
    require_shards(cfg)
    given, (rank, world_size) = orders(), environment.world()
    if given is None:
        raise BadInput("no torchrun has started this process")
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: asked.append(number))
    while (order := given.wait())[0] != END:
        stage, meeting = order
        announce(rank, meeting)
        inputs = read_stage_inputs(stage, cfg, run, device_of_rank(cfg, read_status(run.status).threads))
        on_gpu = has_own_gpu(inputs.device)
        with joined(rank, world_size, meeting, identity_in_words(inputs), on_gpu=on_gpu) as world:
            train_together(stage, cfg, run, inputs, Hooks(should_stop=lambda: bool(asked)), world)


def train_together(
    stage: str, cfg: PipelineConfig, run: RunDir, inputs: StageInputs, hooks: Hooks, world: World
) -> TrainState:
    """One stage, alone or as one of several processes. Raises what `fit` raises."""
    return fit(
        STAGES[stage],
        cfg,
        inputs.data,
        inputs.frozen,
        device=inputs.device,
        resume_path=run.resume(stage),
        lineage=inputs.lineage,
        hooks=hooks,
        world=world,
    )


def identity_in_words(inputs: StageInputs) -> str:
    """What a process works on, which must be the same in all."""
    return identity_of(code_version(), inputs.lineage.config_hash, inputs.lineage.inputs)


def device_of_rank(cfg: PipelineConfig, threads: int | None = None) -> torch.device:
    """A GPU of this process's own, where there is one; on a CPU, with the threads of the run."""
    device = select_device(cfg, threads)
    if device.type == "cuda":
        device = torch.device("cuda", (environment.number("LOCAL_RANK") or 0) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    return device


def has_own_gpu(device: torch.device) -> bool:
    """Whether every process of this machine has a GPU to itself, so that NCCL can connect them."""
    here = environment.number("LOCAL_WORLD_SIZE") or 1
    return device.type == "cuda" and dist.is_nccl_available() and here <= torch.cuda.device_count()


def store_of_torchrun(world_size: int) -> Store:
    """Where the processes of this start meet: the agent's store, or the first process's where the agent has none."""
    rank, _ = environment.world()
    by_agent = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = TCPStore(
        environment.get("MASTER_ADDR", "127.0.0.1"),
        environment.number("MASTER_PORT") or 0,
        world_size,
        is_master=not by_agent and rank == 0,
        timeout=timedelta(seconds=JOIN_S),
        wait_for_workers=False,
    )
    return PrefixStore(f"ups-{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
