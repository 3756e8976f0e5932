"""The table of problems: what is known of an equation without PyTorch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One equation with one scalar parameter; every question about a family's name is answered here.

    `parameter` is the name of a root attribute in PDEBench's files and a part of their names; `pattern` the name of a
    file that we solve for, given the parameter's value and a key of the recipe. `steady` data are coefficient fields
    and steady states rather than trajectories. `mirrored`: (u, x) -> (-u, -x) turns solutions into solutions, so that
    mirrored augmentation is exact. `positive`: the solver needs a parameter above zero.
    """

    name: str
    parameter: str
    pattern: str
    default_parameter: float
    default_points: int
    steady: bool = False
    mirrored: bool = False
    positive: bool = False

    @property
    def flag(self) -> str:
        """Name of the parameter on the command line."""
        return self.parameter.lower()


BURGERS = Problem("burgers1d", "Nu", "1D_Burgers_Sols_Nu{}_{}.hdf5", 0.01, 256, mirrored=True, positive=True)
ADVECTION = Problem("advection1d", "beta", "1D_Advection_Sols_beta{}_{}.hdf5", 0.1, 256)
DARCY = Problem("darcy2d", "beta", "2D_DarcyFlow_beta{}_Train_{}.hdf5", 1.0, 32, steady=True)

PROBLEMS: dict[str, Problem] = {problem.name: problem for problem in (BURGERS, ADVECTION, DARCY)}
EVOLVING: dict[str, Problem] = {name: problem for name, problem in PROBLEMS.items() if not problem.steady}
"""Those with trajectories."""
