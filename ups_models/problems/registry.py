"""The table of problems: what is known of an equation without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One equation with one scalar parameter; every question about a family's name is answered here."""

    name: str
    parameter: str
    """Name of the parameter in PDEBench's files: their root attribute, and part of their names."""
    file_pattern: str
    """Name of a file that we solve for, given the parameter's value and a key of the recipe."""
    default_parameter: float
    default_points: int
    """Grid points along each axis."""
    steady: bool = False
    """Whether the data are steady states, given a coefficient field, rather than trajectories."""
    mirrored: bool = False
    """Whether (u, x) -> (-u, -x) turns solutions into solutions, so that mirrored augmentation is exact."""
    positive: bool = False
    """Whether the solver needs a parameter above zero."""

    @property
    def flag(self) -> str:
        """Name of the parameter on the command line."""
        return self.parameter.lower()

    def file_name(self, parameter: float, key: str) -> str:
        """Name of the file that holds this parameter's solutions."""
        return self.file_pattern.format(parameter, key)


BURGERS = Problem("burgers1d", "Nu", "1D_Burgers_Sols_Nu{}_{}.hdf5", 0.01, 256, mirrored=True, positive=True)
ADVECTION = Problem("advection1d", "beta", "1D_Advection_Sols_beta{}_{}.hdf5", 0.1, 256)
DARCY = Problem("darcy2d", "beta", "2D_DarcyFlow_beta{}_Train_{}.hdf5", 1.0, 32, steady=True)

PROBLEMS: dict[str, Problem] = {problem.name: problem for problem in (BURGERS, ADVECTION, DARCY)}
EVOLVING: dict[str, Problem] = {name: problem for name, problem in PROBLEMS.items() if not problem.steady}
"""Those with trajectories."""
