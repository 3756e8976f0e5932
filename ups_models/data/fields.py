"""Fields in memory: trajectories of one-dimensional problems, and steady states of two-dimensional ones."""

import math
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor


@dataclass(frozen=True)
class Trajectories:
    """Solutions of a 1D family. u: (N, T, X) float32, x: (X,), t: (T,), parameter (nu or beta) and row: (N,).

    `row` is the number of the trajectory in its file: files of other parameters hold the same initial condition in
    the same row, so a split goes by row.
    """

    family: str
    u: Tensor
    x: Tensor
    t: Tensor
    parameter: Tensor
    row: Tensor

    @property
    def dt(self) -> float:
        """Time between two frames, in the time unit of the equation; NaN for a single frame."""
        return float(self.t[-1] - self.t[0]) / (len(self.t) - 1) if len(self.t) > 1 else math.nan

    def select(self, rows: Tensor) -> Self:
        """The trajectories of a boolean mask (N,) or of an index tensor."""
        return replace(self, u=self.u[rows], parameter=self.parameter[rows], row=self.row[rows])


@dataclass(frozen=True)
class SteadyFields:
    """Darcy coefficients and solutions. a, u: (N, H, W) float32, beta and row: (N,)."""

    a: Tensor
    u: Tensor
    beta: Tensor
    row: Tensor

    def select(self, rows: Tensor) -> Self:
        """The samples of a boolean mask (N,) or of an index tensor."""
        return replace(self, a=self.a[rows], u=self.u[rows], beta=self.beta[rows], row=self.row[rows])
