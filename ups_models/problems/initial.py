"""Random initial fields."""

import numpy as np
import torch
from torch import Tensor

from ups_models.problems.problem import Values


def random_waves(n: int, nx: int, rng: np.random.Generator, *, offset: float = 0.5) -> Tensor:
    """Initial conditions with PDEBench's distribution at x = (i + offset) / nx, (n, nx) float64.

    Takamoto et al. 2022 (PDEBench), appendix D: a sum of A_k sin(2 pi c_k k x + phase_k), k = 1..4, where c_k counts
    how often two draws with replacement gave k: a mode drawn twice has twice its wave number, one not drawn adds a
    constant.
    Every function gets a random sign; one in ten is an absolute value, one in ten is cut off by a smooth window.
    The i-th function of a fresh `rng` depends on its seed and i alone (`Generator.spawn`), not on n nor on nx.
    """
    x = (np.arange(nx) + offset) / nx % 1.0
    return torch.from_numpy(np.stack([_random_wave(x, child) for child in rng.spawn(n)]))


def waves(n: int, points: tuple[int, ...], _parameters: Values, rng: np.random.Generator) -> Tensor:
    """The same as a problem's initial fields, (n, 1, X)."""
    return random_waves(n, points[0], rng)[:, None]


def _random_wave(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One initial condition, (X,) -> (X,)."""
    wave_number = np.arange(1, 5) * np.bincount(rng.integers(0, 4, size=2), minlength=4)
    amplitude = rng.uniform(0, 1, size=4)
    phase = rng.uniform(0, 2 * np.pi, size=4)
    is_absolute, is_cut = rng.random(size=2) < 0.1
    sign = rng.choice([-1.0, 1.0])
    left, right = rng.uniform(0.1, 0.45), rng.uniform(0.55, 0.9)
    u: np.ndarray = np.sin(2 * np.pi * x[:, None] * wave_number + phase) @ amplitude
    u = sign * (np.abs(u) if is_absolute else u)
    return u * (np.tanh((x - left) / 0.01) - np.tanh((x - right) / 0.01)) / 2 if is_cut else u


def smooth_fields(
    n: int, points: tuple[int, ...], periodic: tuple[bool, ...], rng: np.random.Generator, *, waves: int, channels: int
) -> Tensor:
    """Gaussian random fields of the lowest `waves` modes of each axis, without mean, of unit variance: (n, C, *points).

    On a periodic axis the modes are those of a Fourier series at nodes i / points, on another the cosines at cell
    centres (i + 1/2) / points, whose normal derivative is zero on the boundary. A field is the same function on every
    grid. The i-th field of a fresh `rng` depends on its seed and i alone.
    """
    bases = [_waves(size, waves, is_periodic=one) for size, one in zip(points, periodic, strict=True)]
    fields = []
    for child in rng.spawn(n):
        for _ in range(channels):
            field = child.standard_normal([basis.shape[1] for basis in bases])
            field[(0,) * len(bases)] = 0.0
            field /= np.sqrt(np.square(field).sum())
            for axis, basis in enumerate(bases):
                field = np.moveaxis(np.tensordot(basis, field, axes=(1, axis)), 0, axis)
            fields.append(field)
    found: Tensor = torch.from_numpy(np.stack(fields)).unflatten(0, (n, channels))
    return found


def _waves(size: int, waves: int, *, is_periodic: bool) -> np.ndarray:
    """Functions of unit mean square on a unit axis, the constant first: (size, functions)."""
    k = np.arange(1, waves + 1)
    if is_periodic:
        phase = 2 * np.pi * np.outer(np.arange(size) / size, k)
        columns = np.sqrt(2) * np.concatenate([np.cos(phase), np.sin(phase)], axis=1)
    else:
        columns = np.sqrt(2) * np.cos(np.pi * np.outer((np.arange(size) + 0.5) / size, k))
    return np.concatenate([np.ones((size, 1)), columns], axis=1)


def blobs(n: int, points: tuple[int, ...], rng: np.random.Generator, *, count: int, width: float) -> Tensor:
    """`count` smooth spots of height 1 at random places of the periodic unit square, `width` wide: (n, *points)."""
    x, y = (np.arange(size) / size for size in points)
    fields = []
    for child in rng.spawn(n):
        centres = child.uniform(0, 1, size=(count, 2))
        near_x, near_y = (
            np.exp((np.cos(2 * np.pi * (at[:, None] - centres[:, axis])) - 1) / (2 * np.pi * width) ** 2)
            for axis, at in enumerate((x, y))
        )
        fields.append(1 - np.exp(-near_x @ near_y.T))
    return torch.from_numpy(np.stack(fields))
