"""The gradient of a step over all shards, sent to the other processes while the rest of it is still computed.

Sums over shards are made number by number, in the tree of parallel.py: a part of the numbers has the same bits alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ups_models.training.optim import flat_gradient, put_gradient
from ups_models.training.parallel import World, answered, tree_sum

PART = 2**20
"""Numbers that travel at once."""


@dataclass
class GradientSum:
    """Over the shards of a step, the same in every process. Which parameters get one may change from step to step."""

    net: nn.Module
    world: World
    shards: int
    _owners: list[nn.Parameter] = field(default_factory=list)
    """Parameters that got a gradient from the shard before, in the network's order."""

    def set_mean(self, losses: Iterable[Tensor]) -> Tensor:
        """Set the gradient of the mean loss over all shards; returns that, (). `losses`: of this process's shards."""
        own: list[Tensor] = []
        last, sending = len(self.world.shards(self.shards)) - 1, None
        for number, loss in enumerate(losses):
            if number == last and self._can_overlap(loss):
                sending = Sending(self.world, self._owners, own, loss.detach())
            with sending.during_backward() if sending is not None else nullcontext():
                own.append(flat_gradient(loss, self.net))
            self._owners = [parameter for parameter in self.net.parameters() if parameter.grad is not None]
        if sending is not None and sending.is_of(self._owners):
            total = sending.result()
        else:
            total = self.world.sum_over_shards(own, self.shards)
        return put_gradient(total / self.shards, self.net)

    def _can_overlap(self, loss: Tensor) -> bool:
        types = {parameter.dtype for parameter in self._owners}
        sum_in_parts = bool(self._owners) and self.world.is_subtree(sum(map(torch.numel, self._owners)), self.shards)
        return sum_in_parts and types == {torch.float32} and (self.world.on_gpu or loss.device.type == "cpu")


class Sending:
    """One backward pass, of a process's last shard, and the sums that are begun while it runs.

    Parts are sent from the last parameters to the first, as they become ready, and in this order in every process.
    """

    def __init__(self, world: World, owners: Sequence[nn.Parameter], before: Sequence[Tensor], loss: Tensor) -> None:
        self.world, self.owners, self.before = world, list(owners), list(before)
        self.loss = loss.float().view(1)
        self.parts = list(_parts(self.owners))
        self.part_of = {id(parameter): part for part in self.parts for parameter in part.parameters}
        self.sent: list[tuple[dist.Work, list[Tensor]]] = []

    @contextmanager
    def during_backward(self) -> Iterator[None]:
        """Send what gets its gradient in here."""
        hooks = [parameter.register_post_accumulate_grad_hook(self._is_ready) for parameter in self.owners]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def is_of(self, owners: Sequence[nn.Parameter]) -> bool:
        """Whether these parameters, and no others, got a gradient; what was sent has arrived, or is given up."""
        same = len(owners) == len(self.owners) and all(map(lambda one, other: one is other, owners, self.owners))
        if not same:
            self._received()
        return same

    def result(self) -> Tensor:
        """The sum over the shards of all processes, (P + 1,): as of `World.sum_over_shards`."""
        return torch.cat([tree_sum(found) for found in self._received()][::-1])

    def _received(self) -> list[list[Tensor]]:
        """What the processes have sent of each part, once all of it is here."""
        with answered():
            for work, _ in self.sent:
                work.wait()
        return [found for _, found in self.sent]

    def _is_ready(self, parameter: Tensor) -> None:
        self.part_of[id(parameter)].missing -= 1
        while len(self.sent) < len(self.parts) and not self.parts[len(self.sent)].missing:
            self._send(self.parts[len(self.sent)])

    def _send(self, part: "_Part") -> None:
        numbers = [parameter.grad.flatten() for parameter in part.parameters if parameter.grad is not None]
        whole = torch.cat([*numbers, self.loss] if part is self.parts[0] else numbers)
        end = part.begin + len(whole)
        partial = tree_sum([*(one[part.begin : end] for one in self.before), whole])
        found = [torch.empty_like(partial) for _ in range(self.world.world_size)]
        with answered():
            work = dist.all_gather(found, partial, group=self.world.group, async_op=True)
        self.sent.append((work, found))


@dataclass
class _Part:
    """Neighbouring parameters, and where they begin in the flat gradient."""

    parameters: list[nn.Parameter]
    begin: int
    missing: int


def _parts(owners: Sequence[nn.Parameter]) -> Iterator[_Part]:
    """From the last ones, whose gradients are ready first, to the first."""
    begin, part = sum(map(torch.numel, owners)), []
    for parameter in reversed(owners):
        begin -= parameter.numel()
        part.append(parameter)
        if sum(map(torch.numel, part)) >= PART or parameter is owners[0]:
            yield _Part(part[::-1], begin, len(part))
            part = []
