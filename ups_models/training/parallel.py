"""Processes that train together: which shards of a step each computes, and how all get one sum, to the bit.

A step is a function of (seed, stage, step) over a fixed number of logical shards. The gradients of shards are added up
in one binary tree over the shards, never over the processes: any number of processes makes the same additions.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from ups_models.config.section import is_power_of_two
from ups_models.errors import UPSError

Way = Literal["gather", "subtree", "slices"]
LARGE = 50_000_000
"""Numbers of all gathered gradients above which no process holds them whole."""


class ProcessLost(UPSError):
    """A process that trains along has ended, or does not answer any more."""


@contextmanager
def answered() -> Iterator[None]:
    """Within the block others answer; raises ProcessLost where gloo or NCCL say that one does not."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(
            "another process that trains along has ended, or does not answer: its own lines say why. What was saved "
            "is kept: --auto-resume goes on, with any number of processes"
        ) from error


@dataclass(frozen=True)
class World:
    """rank in [0, world_size); one process alone is (0, 1). `group` is what connects them, where there are several."""

    rank: int = 0
    world_size: int = 1
    group: dist.ProcessGroup | None = None
    way: Way | None = None
    """How sums are made; None: whichever is cheapest. All make the same bits."""
    on_gpu: bool = False
    """Whether the group connects GPUs; else what lies on one goes through the CPU."""

    def shards(self, total: int) -> range:
        """Those that this process computes: 3, 3 and 2 of 8 for three processes."""
        return self._blocks(total)[self.rank]

    def sum_over_shards(self, own: Sequence[Tensor], total: int) -> Tensor:
        """The sum over all shards, the same in every process; `own` are those of this one, (P,) each.

        `total` is a power of two. docs/processes.md has the traffic and the memory of each way.
        """
        if self.group is None:
            return tree_sum(own)
        way = self.way or self._cheapest(own[0].numel(), total)
        ways = {"gather": self._gather, "subtree": self._subtree, "slices": self._slices}
        device = own[0].device
        sent = own if self.on_gpu else [one.cpu() for one in own]
        with answered():
            return ways[way](sent, total).to(device)

    def is_subtree(self, numbers: int, total: int) -> bool:
        """Whether such sums are made of one partial sum of each process, which may be made of the numbers in parts."""
        return self.group is not None and (self.way or self._cheapest(numbers, total)) == "subtree"

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag, true where it is so in any of the processes."""
        if self.group is None:
            return flags
        anywhere = torch.tensor([float(flag) for flag in flags])
        with answered():
            dist.all_reduce(anywhere, dist.ReduceOp.MAX, group=self.group)
        return tuple(bool(value) for value in anywhere.tolist())

    def from_first(self, value: Any) -> Any:
        """What the first process has, in every process."""
        if self.group is None:
            return value
        holder = [value]
        with answered():
            dist.broadcast_object_list(holder, src=0, group=self.group)
        return holder[0]

    def _blocks(self, total: int) -> list[range]:
        """Consecutive shards for each process, the first ones having one more where they do not divide evenly."""
        sizes = [total // self.world_size + (rank < total % self.world_size) for rank in range(self.world_size)]
        ends = list(accumulate(sizes))
        return [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]

    def _cheapest(self, numbers: int, total: int) -> Way:
        if is_power_of_two(self.world_size):
            return "subtree"
        return "slices" if numbers * total > LARGE else "gather"

    def _gather(self, own: Sequence[Tensor], total: int) -> Tensor:
        """Every gradient to every process, then the tree."""
        blocks = self._blocks(total)
        padded = _padded(own, len(blocks[0]))
        found = [torch.empty_like(padded) for _ in blocks]
        dist.all_gather(found, padded, group=self.group)
        return tree_sum(_in_order(found, blocks))

    def _subtree(self, own: Sequence[Tensor], _total: int) -> Tensor:
        """The sum of each process's shards is a node of the tree where both numbers are powers of two."""
        partial = tree_sum(own)
        found = [torch.empty_like(partial) for _ in range(self.world_size)]
        dist.all_gather(found, partial, group=self.group)
        return tree_sum(found)

    def _slices(self, own: Sequence[Tensor], total: int) -> Tensor:
        """Each process adds up a slice of all gradients, and hands it round."""
        blocks, numbers = self._blocks(total), own[0].numel()
        each = math.ceil(numbers / self.world_size)
        padded = _padded(own, len(blocks[0]))
        wide = torch.nn.functional.pad(padded, (0, each * self.world_size - numbers))
        sent = wide.view(len(blocks[0]), self.world_size, each).transpose(0, 1).contiguous()
        found = torch.empty_like(sent)
        dist.all_to_all_single(found, sent, group=self.group)
        mine = tree_sum(_in_order(found, blocks))
        parts = [torch.empty_like(mine) for _ in blocks]
        dist.all_gather(parts, mine, group=self.group)
        return torch.cat(parts)[:numbers]


def tree_sum(parts: Sequence[Tensor]) -> Tensor:
    """The sum of 2^n tensors of one shape: of neighbours, then of these sums, and so on."""
    while len(parts) > 1:
        parts = [one + other for one, other in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _in_order(found: Iterable[Tensor], blocks: Sequence[range]) -> list[Tensor]:
    """Shard by shard what the processes have sent, (count, P) each, without their padding."""
    return [shard for part, block in zip(found, blocks, strict=True) for shard in part[: len(block)]]


def _padded(own: Sequence[Tensor], count: int) -> Tensor:
    """(count, P), with zeros for shards that other processes have more."""
    return torch.stack([*own, *[torch.zeros_like(own[0])] * (count - len(own))])
