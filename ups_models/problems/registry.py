"""The table of problems: a row each, read without PyTorch; the solver is a file of the same name."""

import math

from ups_models.problems.problem import Axis, Parameter, Problem, Sampling, mirrored, transposed

BURGERS = Problem(
    name="burgers1d",
    channels=("u",),
    parameters=(Parameter("Nu", 0.01, low=0.0, high=1000.0, logarithmic=True),),
    axes=(Axis("x", offset=0.5),),
    sampling=Sampling(points=256, nt=41, t_end=2.0),
    order=4,
    conserved=("u",),
    symmetries=(mirrored(1),),
    pattern="1D_Burgers_Sols_Nu{}_{}.hdf5",
    solver="ups_models.problems.burgers1d:SOLVER",
)
ADVECTION = Problem(
    name="advection1d",
    channels=("u",),
    parameters=(Parameter("beta", 0.1, low=0.0, high=1000.0, logarithmic=True),),
    axes=(Axis("x", offset=0.5),),
    sampling=Sampling(points=256, nt=41, t_end=2.0),
    order=4,
    conserved=("u",),
    pattern="1D_Advection_Sols_beta{}_{}.hdf5",
    solver="ups_models.problems.advection1d:SOLVER",
)
REACTION_DIFFUSION = Problem(
    name="reaction_diffusion1d",
    channels=("u",),
    parameters=(
        Parameter("Nu", 0.5, low=0.0, high=1000.0, logarithmic=True),
        Parameter("rho", 1.0, low=0.0, high=1000.0, logarithmic=True),
    ),
    axes=(Axis("x", offset=0.5),),
    sampling=Sampling(points=256, nt=41, t_end=1.0),
    order=4,
    symmetries=(mirrored(1, odd=()),),
    pattern="ReacDiff_Nu{}_Rho{}_{}.h5",
    seconds=0.05,
    solver="ups_models.problems.reaction_diffusion1d:SOLVER",
)
DIFFUSION_SORPTION = Problem(
    name="diffusion_sorption1d",
    channels=("u",),
    parameters=(),
    axes=(Axis("x", periodic=False, offset=0.5),),
    sampling=Sampling(points=1024, nt=101, t_end=500.0),
)
KS = Problem(
    name="ks1d",
    channels=("u",),
    parameters=(Parameter("nu", 1.0, low=0.0, high=10.0, logarithmic=True),),
    axes=(Axis("x", 64.0),),
    sampling=Sampling(points=256, nt=61, t_end=60.0),
    order=4,
    conserved=("u",),
    symmetries=(mirrored(1),),
    pattern="ks1d_nu{}_{}.h5",
    seconds=0.45,
    solver="ups_models.problems.ks1d:SOLVER",
)
KDV = Problem(
    name="kdv1d",
    channels=("u",),
    parameters=(Parameter("nu", 1.717e-9, low=0.0, high=1e-3, logarithmic=True),),
    axes=(Axis("x"),),
    sampling=Sampling(points=160, nt=51, t_end=50.0),
    order=4,
    conserved=("u",),
    pattern="kdv1d_nu{}_{}.h5",
    seconds=0.06,
    solver="ups_models.problems.kdv1d:SOLVER",
)
DIFFUSION_REACTION = Problem(
    name="diffusion_reaction2d",
    channels=("activator", "inhibitor"),
    parameters=(
        Parameter("Du", 1e-3, low=0.0, high=1.0, logarithmic=True),
        Parameter("Dv", 5e-3, low=0.0, high=1.0, logarithmic=True),
        Parameter("k", 5e-3, low=-1.0, high=1.0, unit=5e-3),
    ),
    axes=(Axis("x", 2.0, -1.0, periodic=False, offset=0.5), Axis("y", 2.0, -1.0, periodic=False, offset=0.5)),
    sampling=Sampling(points=64, nt=101, t_end=5.0),
    order=4,
    symmetries=(mirrored(2, odd=()), transposed()),
    pattern="diffusion_reaction2d_Du{}_Dv{}_k{}_{}.h5",
    seconds=0.2,
    solver="ups_models.problems.diffusion_reaction2d:SOLVER",
)
GRAY_SCOTT = Problem(
    name="gray_scott2d",
    channels=("A", "B"),
    parameters=(
        Parameter("F", 0.04, low=0.0, high=0.2, unit=0.04),
        Parameter("k", 0.06, low=0.0, high=0.2, unit=0.06),
    ),
    axes=(Axis("x", 2.0, -1.0), Axis("y", 2.0, -1.0)),
    sampling=Sampling(points=64, nt=41, t_end=2000.0),
    order=4,
    symmetries=(mirrored(2, odd=()), transposed()),
    pattern="gray_scott2d_F{}_k{}_{}.h5",
    seconds=1.9,
    solver="ups_models.problems.gray_scott2d:SOLVER",
)
SHALLOW_WATER = Problem(
    name="shallow_water2d",
    channels=("h", "hvx", "hvy"),
    parameters=(Parameter("g", 1.0, low=0.0, high=10.0, logarithmic=True, aliases=("gravity", "grav")),),
    axes=(Axis("x", 5.0, -2.5, periodic=False, offset=0.5), Axis("y", 5.0, -2.5, periodic=False, offset=0.5)),
    sampling=Sampling(points=64, nt=21, t_end=1.0),
    order=2,
    symmetries=(mirrored(2, odd=(1,)), transposed((1, 2))),
    pattern="shallow_water2d_g{}_{}.h5",
    seconds=2.0,
    solver="ups_models.problems.shallow_water2d:SOLVER",
)
DAM_BREAK = Problem(
    name="dam_break2d",
    channels=("h",),
    parameters=SHALLOW_WATER.parameters,
    axes=SHALLOW_WATER.axes,
    sampling=SHALLOW_WATER.sampling,
    order=2,
    symmetries=(mirrored(2, odd=()), transposed()),
    pattern="dam_break2d_g{}_{}.h5",
    seconds=2.0,
    solver="ups_models.problems.shallow_water2d:HEIGHT",
)
KOLMOGOROV = Problem(
    name="kolmogorov2d",
    channels=("vorticity",),
    parameters=(Parameter("nu", 0.01, low=0.0, high=1.0, logarithmic=True),),
    axes=(Axis("x", 2 * math.pi), Axis("y", 2 * math.pi, period=4)),
    sampling=Sampling(points=64, nt=41, t_end=8.0),
    order=4,
    conserved=("vorticity",),
    pattern="kolmogorov2d_nu{}_{}.h5",
    seconds=0.45,
    solver="ups_models.problems.kolmogorov2d:SOLVER",
)
DARCY = Problem(
    name="darcy2d",
    channels=("u",),
    parameters=(Parameter("beta", 1.0, low=0.0, high=1000.0, logarithmic=True),),
    axes=(Axis("x", periodic=False, offset=0.5), Axis("y", periodic=False, offset=0.5)),
    sampling=Sampling(points=32, nt=2),
    order=2,
    symmetries=(mirrored(2, odd=()), transposed()),
    pattern="2D_DarcyFlow_beta{}_Train_{}.hdf5",
    steady=True,
    solver="ups_models.problems.darcy2d:SOLVER",
)
VISCOSITIES = (
    Parameter("eta", 1e-8, low=0.0, high=10.0, logarithmic=True),
    Parameter("zeta", 1e-8, low=0.0, high=10.0, logarithmic=True),
)
COMPRESSIBLE_NS1D = Problem(
    name="compressible_ns1d",
    channels=("density", "pressure", "Vx"),
    parameters=VISCOSITIES,
    axes=(Axis("x", 2.0, -1.0, offset=0.5),),
    sampling=Sampling(points=1024, nt=101, t_end=1.0),
    conserved=("density",),
    symmetries=(mirrored(1, odd=(2,)),),
)
COMPRESSIBLE_NS2D = Problem(
    name="compressible_ns2d",
    channels=("density", "pressure", "Vx", "Vy"),
    parameters=(*VISCOSITIES, Parameter("M", 0.1, low=0.0, high=100.0, logarithmic=True)),
    axes=(Axis("x", offset=0.5), Axis("y", offset=0.5)),
    sampling=Sampling(points=128, nt=21, t_end=1.0),
    conserved=("density",),
    symmetries=(mirrored(2, odd=(2,)), transposed((2, 3))),
)

PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        BURGERS, ADVECTION, REACTION_DIFFUSION, DIFFUSION_SORPTION, KS, KDV, COMPRESSIBLE_NS1D,
        DIFFUSION_REACTION, GRAY_SCOTT, SHALLOW_WATER, DAM_BREAK, KOLMOGOROV, COMPRESSIBLE_NS2D, DARCY,
    )
}  # fmt: skip
EVOLVING: dict[str, Problem] = {name: problem for name, problem in PROBLEMS.items() if not problem.steady}
"""Those with trajectories."""


def solved_problems() -> dict[str, Problem]:
    """Those that we can solve."""
    return {name: problem for name, problem in PROBLEMS.items() if problem.solver is not None}
