"""Rollouts: many steps of the latent operator from one field, alone or as an ensemble."""

from collections.abc import Callable

import torch
from torch import Tensor

from ups_models.nn.codec import means_of
from ups_models.nn.own import Operator

SampleFields = Callable[[Operator, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(operator, u_t (B, C, *space), z (B, S, D), z_hat (B, S, D), means of u_t (B, C)) -> a sample of u_{t+1}, as u_t."""
BATCH = 256
"""Rows that a network takes at once: more leave the caches, and are slower for each."""


def in_batches(function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """What a network finds for each row (B, ...), computed in equal batches."""
    n = max(1, -(-len(rows[0]) // BATCH))
    return torch.cat([function(*some) for some in zip(*(one.tensor_split(n) for one in rows), strict=True)])


@torch.no_grad()
def rollout(operator: Operator, u0: Tensor, parameters: Tensor, *, steps: int, reencode_every: int) -> Tensor:
    """u0 (B, C, *space), parameters (B, P + 1) -> predictions at steps 1..steps, (B, steps, C, *space).

    Every `reencode_every` steps (0: never) z <- E(D(z)) pulls the state back to where the operator was trained.
    """
    mean, z = means_of(u0), operator.encode(u0)
    fields = []
    for step in range(1, steps + 1):
        z = operator.advance(z, parameters)
        fields.append(operator.decode(z, mean))
        if reencode_every and step % reencode_every == 0:
            z = operator.encode(fields[-1])
    return torch.stack(fields, 1)


@torch.no_grad()
def one_step_members(
    operator: Operator, sample: SampleFields, u: Tensor, parameters: Tensor, *, members: int
) -> Tensor:
    """u_t (B, C, *space) -> `members` samples of u_{t+1}, (M, B, C, *space): a residual is drawn for each."""
    z = operator.encode(u)
    z_hat = operator.advance(z, parameters)
    known = (each.repeat(members, *[1] * (each.ndim - 1)) for each in (u, z, z_hat, means_of(u)))
    fields: Tensor = sample(operator, *known).unflatten(0, (members, -1))
    return fields


@torch.no_grad()
def rollout_members(
    operator: Operator, sample: SampleFields, u0: Tensor, parameters: Tensor, *, members: int, steps: int
) -> Tensor:
    """u0 (B, C, *space) -> ensemble rollouts (M, B, steps, C, *space); every step samples a residual and encodes."""
    parameters = parameters.repeat(members, 1)
    u, mean = u0.repeat(members, *[1] * (u0.ndim - 1)), means_of(u0).repeat(members, 1)
    fields = []
    for _ in range(steps):
        z = in_batches(operator.encode, u)
        z_hat = in_batches(operator.advance, z, parameters)
        u = sample(operator, u, z, z_hat, mean)
        fields.append(u)
    rollouts: Tensor = torch.stack(fields, 1).unflatten(0, (members, -1))
    return rollouts
