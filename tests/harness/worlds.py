"""Several processes that train together, for tests and benchmarks: a function is called in each of them."""

from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._distributed_c10d import TCPStore

from harness.ports import free_port
from ups_models.children import end_with_parent
from ups_models.training import overlap
from ups_models.training.joining import joined
from ups_models.training.overlap import GradientSum
from ups_models.training.parallel import Way, World

WITHIN_S = 180.0


def in_world(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(world, *arguments)` returns in each of so many processes; what goes in and out is pickled."""
    context, port = get_context("spawn"), free_port()
    results = context.Queue()
    processes = [
        context.Process(target=_rank, args=(rank, world_size, port, results, function, arguments), daemon=True)
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    try:
        found = dict(results.get(timeout=WITHIN_S) for _ in processes)
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    return [found[rank] for rank in range(world_size)]


def _rank(rank: int, world_size: int, port: int, results: Any, function: Callable[..., Any], arguments: Any) -> None:
    end_with_parent()
    torch.set_num_threads(1)
    store = TCPStore("127.0.0.1", port, world_size, is_master=rank == 0, timeout=timedelta(seconds=WITHIN_S))
    with joined(rank, world_size, store, "the same") as world:
        results.put((rank, function(world, *arguments)))


def sums(world: World, total: int, numbers: int, ways: tuple[Way, ...]) -> list[bytes]:
    """The bits of the sum over so many random shards, made in each of the ways."""
    rng = torch.Generator().manual_seed(0)
    shards = torch.randn(total, numbers, generator=rng) * torch.logspace(-6, 6, numbers)
    own = [shards[shard] for shard in world.shards(total)]
    return [
        World(world.rank, world.world_size, world.group, way).sum_over_shards(own, total).numpy().tobytes()
        for way in ways
    ]


class Changing(nn.Module):
    """A network of two layers, the second of which takes part from the second step on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(40, 30), nn.Linear(30, 30)

    def loss(self, step: int, shard: int) -> Tensor:
        """Of random fields."""
        u = torch.randn(5, 40, generator=torch.Generator().manual_seed(100 * step + shard))
        x = self.first(u)
        found: Tensor = (self.second(x.tanh()) if step else x).square().mean()
        return found


def gradients(world: World, total: int, way: Way | None, part: int) -> list[bytes]:
    """The bits of loss and gradient of a few steps, sent in parts of so many numbers."""
    overlap.PART = part
    net, found = Changing(), []
    sum_ = GradientSum(net, World(world.rank, world.world_size, world.group, way), total)
    for step in range(4):
        loss = sum_.set_mean(net.loss(step, shard) for shard in world.shards(total))
        parts = [one.grad for one in net.parameters() if one.grad is not None]
        found.append(b"".join(one.numpy().tobytes() for one in (loss, *parts)))
    return found
