"""Batches drawn from data in memory by a random generator alone: the same generator, the same batch."""

import torch
from torch import Tensor

from ups_models.data.fields import Fields, SteadyFields
from ups_models.problems.problem import Axis


def window_batch(
    data: Fields, rng: torch.Generator, *, size: int, length: int, initial_fraction: float = 0.0
) -> dict[str, Tensor]:
    """Windows of `length` consecutive times, turned by what the problem's solutions may be turned by.

    They are shifted along periodic axes, and each of the data's symmetries is applied to half of them. A fraction
    `initial_fraction` starts at the initial field, where every rollout does and where fields are roughest. Returns
    u (B, length, C, *space) and parameters (B, P + 1).
    """
    trajectories, times, channels, *points = data.shape
    which = _integers(trajectories, size, rng)
    start = _integers(times - length + 1, size, rng) * (torch.rand(size, generator=rng) >= initial_fraction)
    shifts = [_shifts(axis, n, size, rng) for axis, n in zip(data.problem.axes, points, strict=True)]
    index = [torch.arange(size)[:, None], torch.arange(length)[None, :], torch.arange(channels)[None, :]]
    index += [(torch.arange(n) + shift[:, None]) % n for n, shift in zip(points, shifts, strict=True)]
    u = data.windows(which, start, length)
    u = u[tuple(_broadcast(one, place, len(points)) for place, one in enumerate(index))]
    for symmetry in data.symmetries:
        chosen = torch.rand(size, generator=rng).view(-1, *[1] * (u.ndim - 1)) < 0.5
        u = torch.where(chosen, symmetry.apply(u), u)
    return {"u": u, "parameters": data.conditioning()[which]}


def _shifts(axis: Axis, points: int, size: int, rng: torch.Generator) -> Tensor:
    """How far each sample is shifted along an axis, in points (B,): by whole periods of the equation."""
    if not axis.periodic or (axis.period and points % axis.period):
        return torch.zeros(size, dtype=torch.long)
    period = points // axis.period if axis.period else 1
    return _integers(points // period, size, rng) * period


def _broadcast(index: Tensor, place: int, dimensions: int) -> Tensor:
    """(B or 1, n) for the place-th axis of (N, T, C, *space), so that the places together index (B, T, C, *space)."""
    if place == 0:
        return index.view(-1, *[1] * (2 + dimensions))
    shape = [len(index)] + [1] * (2 + dimensions)
    shape[place] = index.shape[1]
    return index.view(shape)


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
