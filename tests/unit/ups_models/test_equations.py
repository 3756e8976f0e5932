"""Every problem of the table: its solver converges as fast as it says, and keeps what the table promises."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.testing import assert_close

from flows import ROOT
from ups_models.config.schema import PipelineConfig
from ups_models.data.rows import thinned
from ups_models.problems import diffusion_reaction2d, gray_scott2d, kdv1d, kolmogorov2d, ks1d, reaction_diffusion1d
from ups_models.problems.initial import smooth_fields
from ups_models.problems.registry import BURGERS, EVOLVING, KS, PROBLEMS, SHALLOW_WATER, solved_problems
from ups_models.problems.solving import SolverFailed

SOLVED = {name: problem for name, problem in solved_problems().items() if not problem.steady}
SMALL = {1: 64, 2: 32}
SOON = {"gray_scott2d": 100.0, "kdv1d": 4.0, "ks1d": 2.0}
IN_TIME = {
    "ks1d": (ks1d, 0.2, 2.0),
    "kdv1d": (kdv1d, 0.2, 4.0),
    "reaction_diffusion1d": (reaction_diffusion1d, 0.01, 0.1),
    "kolmogorov2d": (kolmogorov2d, 0.04, 1.0),
    "gray_scott2d": (gray_scott2d, 8.0, 40.0),
    "diffusion_reaction2d": (diffusion_reaction2d, 0.05, 1.0),
}
"""Module, longest step and time of the tests of convergence."""
KINKED = ("reaction_diffusion1d",)
"""Whose initial fields are no smooth ones."""
TOLERATED = {"gray_scott2d": 2e-2, "diffusion_reaction2d": 5e-2}
"""Sharp fronts; and means over cells, which are no values at points."""


def start(name, rows=2, points=None, seed=0):
    problem = PROBLEMS[name]
    grid = (points or SMALL[problem.dimensions],) * problem.dimensions
    return problem.how().initial(rows, grid, problem.defaults, np.random.default_rng(seed))


def solution(name, u0, end=None):
    end = SOON.get(name, 0.2) if end is None else end
    return EVOLVING[name].how().solve(u0, EVOLVING[name].defaults, [0.0, end], None)


def error(found: Tensor, reference: Tensor) -> float:
    return float((found - reference).norm() / reference.norm())


@pytest.mark.parametrize("name", ["burgers1d", "ks1d", "kdv1d", "kolmogorov2d", "gray_scott2d"])
def test_a_solver_agrees_with_that_of_another_library(name):
    with np.load(ROOT / "tests" / "data" / "exponax.npz") as stored:  # see harness/references.py
        u0, reference, end = (torch.from_numpy(stored[f"{name}/{key}"]) for key in ("u0", "u", "t"))
    parameters = EVOLVING[name].defaults | ({"Nu": 0.05} if name == "burgers1d" else {})

    found = EVOLVING[name].how().solve(u0[None], parameters, [0.0, float(end)], None)[0, -1]

    assert error(found, reference) < 1e-5
    assert error(u0, reference) > 1e-3


@pytest.mark.parametrize("name", IN_TIME)
def test_half_the_step_makes_the_error_as_much_smaller_as_the_order_says(name):
    module, longest, end = IN_TIME[name]
    problem = EVOLVING[name]
    u0 = smooth_start(problem, 64) if name in KINKED else start(name, rows=1)
    coarse, fine, reference = (
        module.solve(u0, problem.defaults, [0.0, end], longest=longest / part)[:, -1] for part in (1, 2, 16)
    )

    rate = math.log2(error(coarse, reference) / error(fine, reference))

    assert problem.order == 4
    assert rate > problem.order - 0.7
    assert error(fine, reference) < 1e-3


@pytest.mark.parametrize("name", IN_TIME)
def test_twice_the_points_change_a_smooth_solution_hardly(name):
    problem = EVOLVING[name]
    u0 = smooth_start(problem, {"gray_scott2d": 128}.get(name, 64 if problem.dimensions == 1 else 48))
    coarse = thinned(u0, 2, problem.periodic)
    how, end = problem.how(), {"gray_scott2d": 20.0}.get(name, SOON.get(name, 0.2))

    found = how.solve(coarse, problem.defaults, [0.0, end], None)[:, -1]

    reference = thinned(how.solve(u0, problem.defaults, [0.0, end], None)[:, -1], 2, problem.periodic)
    assert error(found, reference) < TOLERATED.get(name, 1e-3)


def smooth_start(problem, points):
    rng = np.random.default_rng(1)
    grid, channels = (points,) * problem.dimensions, len(problem.channels)
    return 0.3 + 0.2 * smooth_fields(1, grid, problem.periodic, rng, waves=3, channels=channels)


def test_water_converges_at_second_order_where_it_is_smooth():
    def hump(points):
        x = -2.5 + 5 * (torch.arange(points, dtype=torch.float64) + 0.5) / points
        depth = 1 + 0.2 * torch.exp(-(x[:, None] ** 2 + x[None, :] ** 2))
        return torch.stack([depth, torch.zeros_like(depth), torch.zeros_like(depth)])[None]

    def solved(points):
        u = SHALLOW_WATER.how().solve(hump(points), SHALLOW_WATER.defaults, [0.0, 0.5], None)[:, -1]
        return thinned(u, points // 16, SHALLOW_WATER.periodic)

    reference = solved(128)
    errors = [error(solved(points), reference) for points in (16, 32)]

    assert SHALLOW_WATER.order == 2
    assert math.log2(errors[0] / errors[1]) > 1.6


def test_the_dam_break_approaches_its_finer_solution():
    def solved(points):
        u0 = SHALLOW_WATER.how().initial(1, (points, points), {}, np.random.default_rng(0))
        u = SHALLOW_WATER.how().solve(u0, SHALLOW_WATER.defaults, [0.0, 1.0], None)[:, -1]
        return thinned(u, points // 16, SHALLOW_WATER.periodic)[:, :1]

    reference = solved(128)
    errors = [error(solved(points), reference) for points in (16, 32, 64)]

    assert errors[0] > 1.3 * errors[1] > 1.3**2 * errors[2]
    assert errors[2] < 0.02


def test_still_water_stays_still():
    u0 = torch.stack([torch.ones(16, 16), torch.zeros(16, 16), torch.zeros(16, 16)])[None].double()

    assert_close(solution("shallow_water2d", u0)[:, -1], u0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SOLVED)
def test_the_means_that_the_table_calls_conserved_do_not_change(name):
    problem = EVOLVING[name]
    u = solution(name, start(name))
    mean = u.flatten(3).mean(-1)

    for channel, title in enumerate(problem.channels):
        drift = (mean[:, -1, channel] - mean[:, 0, channel]).abs().max()
        assert not (title in problem.conserved and drift > 1e-9), title


@pytest.mark.parametrize(("name", "number"), [(n, i) for n, p in SOLVED.items() for i in range(len(p.symmetries))])
def test_a_symmetry_turns_solutions_into_solutions(name, number):
    u0, symmetry = start(name), EVOLVING[name].symmetries[number]

    turned_first = solution(name, symmetry.apply(u0))

    assert_close(turned_first, symmetry.apply(solution(name, u0)), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", [name for name, problem in SOLVED.items() if any(problem.periodic)])
def test_shifts_by_a_period_turn_solutions_into_solutions(name):
    u0 = start(name)
    for number, axis in enumerate(EVOLVING[name].axes):
        along, points = number - len(EVOLVING[name].axes), u0.shape[-1]
        shift = points // axis.period if axis.period else 5

        assert_close(solution(name, u0.roll(shift, along)), solution(name, u0).roll(shift, along), rtol=1e-6, atol=1e-7)


def test_the_mirror_of_advection_is_none():
    u0 = start("advection1d")

    assert error(solution("advection1d", -u0.flip(-1)), -solution("advection1d", u0).flip(-1)) > 0.1


@pytest.mark.parametrize("name", solved_problems())
def test_a_row_depends_on_the_seed_and_its_number_alone(name):
    few, many = start(name, rows=2), start(name, rows=5)

    assert_close(many[:2], few, rtol=1e-9, atol=1e-9)


def test_ks_is_chaotic_on_its_attractor():
    u0 = start("ks1d", points=128)
    near = u0.clone()
    near[..., 0] += 1e-6

    apart = error(solution("ks1d", near, 40.0)[:, -1], solution("ks1d", u0, 40.0)[:, -1])

    assert 1.0 < float(u0.std()) < 1.6
    assert apart > 5 * error(near, u0)
    assert KS.sampling.t_end >= 40


def test_what_does_not_stay_finite_is_no_solution():
    u0 = 1e6 * start("ks1d")

    with pytest.raises(SolverFailed, match="does not stay finite"):
        solution("ks1d", u0)


def test_a_config_takes_what_it_does_not_say_of_the_data_from_the_problem():
    data = PipelineConfig.model_validate({"data": {"problem": "kolmogorov2d"}, "latent": {"tokens": 16}, **MODES}).data

    assert (data.points, data.generate.nt, data.generate.t_end) == (64, 41, 8.0)
    assert data.values == ({"nu": 0.01},)


MODES = {"operator": {"modes": 5}, "denoiser": {"modes": 5}}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"problem": "kolmogorov"}, "did you mean kolmogorov2d"),
        ({"problem": "darcy2d"}, "darcy2d has steady states"),
        ({"problem": "gray_scott2d", "generate": {"parameters": [{"F": 0.04}]}}, "the value of k is missing"),
        ({"problem": "gray_scott2d", "generate": {"parameters": [{"F": 9, "k": 0}]}}, "F=9 is not possible"),
        ({"problem": "ks1d", "generate": {"parameters": [{"nu": 1.0, "mu": 1.0}]}}, "has no parameter mu"),
        ({"family": "burgers1d", "generate": {"parameters": [0.0]}}, "Nu=0 is not possible"),
    ],
)
def test_a_problem_that_is_none_and_parameters_that_are_none_are_refused(data, said):
    with pytest.raises(ValidationError, match=said):
        PipelineConfig.model_validate({"data": data, "latent": {"tokens": 16}, **MODES})


def test_no_two_dams_are_the_same():
    u0 = PROBLEMS["shallow_water2d"].how().initial(400, (64, 64), {"g": 1.0}, np.random.default_rng(0))

    assert len({one.float().numpy().tobytes() for one in u0}) == 400


def test_a_solver_that_refuses_a_coarse_grid_can_show_what_it_errs_there():
    how = BURGERS.how()
    u0 = how.initial(4, (512,), {"Nu": 0.01}, np.random.default_rng(0)).double()
    times = [0.0, 0.5, 1.0]
    truth = how.solve(u0, {"Nu": 0.01}, times, None)
    assert how.unchecked is not None

    with pytest.raises(SolverFailed, match="64 points do not resolve"):
        how.solve(u0[..., ::8], {"Nu": 0.01}, times, None)

    errors = [
        error(how.unchecked(u0[..., ::k], {"Nu": 0.01}, times, None)[:, -1], truth[:, -1, :, ::k]) for k in (8, 4, 2)
    ]
    assert errors[0] > errors[1] > errors[2] > 0
