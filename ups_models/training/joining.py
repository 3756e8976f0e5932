"""How processes that train together find each other: all of them, in time, and all with the same code and config."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store

from ups_models.errors import BadInput, UPSError
from ups_models.training.parallel import World

JOIN_S, READ_S, STEP_S = 120.0, 7200.0, 300.0
"""So long is waited for a process that has not come, for one that reads its data, and for one that does not answer in a
step."""


class ProcessMissing(UPSError):
    """A process that did not join, or does not answer any more."""


def announce(rank: int, store: Store) -> None:
    """Say that this process is here, and will join when it has read its data."""
    PrefixStore("joining", store).set(f"here {rank}", "1")


@contextmanager
def joined(
    rank: int,
    world_size: int,
    store: Store,
    identity: str,
    *,
    on_gpu: bool = False,
    join_s: float = JOIN_S,
    step_s: float = STEP_S,
) -> Iterator[World]:
    """The world of so many processes, for as long as the block lasts.

    `identity` says what a process works on: code, config, data, versions. `on_gpu`: each has a GPU of its own, and NCCL
    connects them. Raises BadInput where another works on something else, ProcessMissing where one does not come.
    """
    announce(rank, store)
    names = PrefixStore("joining", store)
    names.set(str(rank), identity)
    for other in range(world_size):
        theirs = _identity(names, other, world_size, join_s)
        if theirs != identity:
            raise BadInput(f"process {other} works on {theirs}, and process {rank} on {identity}: start all alike")
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=PrefixStore("training", store),
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=step_s),
    )
    try:
        yield World(rank, world_size, dist.group.WORLD, on_gpu=on_gpu)
    finally:
        dist.destroy_process_group()


def _identity(names: Store, rank: int, world_size: int, join_s: float) -> str:
    for name, within_s in ((f"here {rank}", join_s), (str(rank), READ_S)):
        try:
            names.wait([name], timedelta(seconds=within_s))
        except (RuntimeError, dist.DistError) as error:
            raise ProcessMissing(f"process {rank} of {world_size} did not join within {within_s:g} s") from error
    said: bytes = names.get(str(rank))
    return said.decode()


def identity_of(commit: str, config_hash: str, inputs: dict[str, str]) -> str:
    """What must be the same in every process, in words."""
    data = ", ".join(f"{name} {digest[:12]}" for name, digest in sorted(inputs.items()))
    return f"commit {commit[:19]}, settings {config_hash[:19]}, PyTorch {torch.__version__}, {data}"
