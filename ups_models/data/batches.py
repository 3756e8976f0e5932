"""Batches drawn from data in memory by a random generator alone: the same generator, the same batch."""

import torch
from torch import Tensor

from ups_models.data.fields import SteadyFields, Trajectories
from ups_models.problems.registry import PROBLEMS


def window_batch(
    data: Trajectories, rng: torch.Generator, *, size: int, length: int, initial_fraction: float = 0.0
) -> dict[str, Tensor]:
    """Windows of `length` consecutive times, shifted around the periodic domain, and mirrored where that is exact.

    A fraction `initial_fraction` of them starts at the initial field, where every rollout does and where fields are
    roughest. Returns u (B, length, X) and parameters (B, 2) = (ln coefficient, ln dt). The mirror (u, x) -> (-u, -x)
    is a symmetry of Burgers' equation, not of advection with a fixed direction.
    """
    trajectories, times, points = data.u.shape
    which = _integers(trajectories, size, rng)
    start = _integers(times - length + 1, size, rng) * (torch.rand(size, generator=rng) >= initial_fraction)
    shift = _integers(points, size, rng)
    x = (torch.arange(points) + shift[:, None]) % points
    t = start[:, None] + torch.arange(length)
    u = data.u[which[:, None, None], t[:, :, None], x[:, None, :]]
    if PROBLEMS[data.family].mirrored:
        mirror = torch.rand(size, generator=rng)[:, None, None] < 0.5
        u = torch.where(mirror, -u.flip(-1), u)
    return {"u": u, "parameters": parameters_of(data)[which]}


def parameters_of(data: Trajectories) -> Tensor:
    """What the operator is conditioned on: (ln coefficient, ln dt) for each trajectory, (N, 2)."""
    dt = torch.full_like(data.parameter, data.dt)
    return torch.stack([data.parameter.abs().log(), dt.log()], -1)


def steady_batch(data: SteadyFields, rng: torch.Generator, *, size: int) -> dict[str, Tensor]:
    """Pairs of coefficient and state, turned by one of the square's eight symmetries, which the equation shares.

    Returns a (B, H, W), u (B, H, W), beta (B,).
    """
    which = _integers(len(data.a), size, rng)
    turn = _integers(8, 1, rng).item()
    fields = torch.stack([data.a[which], data.u[which]])
    fields = torch.rot90(fields, int(turn) % 4, (-2, -1))
    if turn >= 4:
        fields = fields.transpose(-2, -1)
    return {"a": fields[0].contiguous(), "u": fields[1].contiguous(), "beta": data.beta[which]}


def _integers(high: int, size: int, rng: torch.Generator) -> Tensor:
    return torch.randint(high, (size,), generator=rng)
