"""Random initial fields of the one-dimensional problems."""

import numpy as np
import torch
from torch import Tensor


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
