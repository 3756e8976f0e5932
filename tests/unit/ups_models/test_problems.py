"""The solvers against closed forms, and the promises of the random inputs."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from harness.bench.solvers import centres, cole_hopf
from ups_models.problems import advection1d, burgers1d, darcy2d
from ups_models.problems.initial import random_waves
from ups_models.problems.solving import SolverFailed

TIMES = [i * 0.05 for i in range(41)]


def nrmse(found: Tensor, exact: Tensor) -> float:
    return float(((found - exact).norm(dim=-1) / exact.norm(dim=-1)).max())


def smooth_rows(n: int, nx: int, seed: int) -> Tensor:
    """Random waves with neither |.| nor window: their samples determine them."""
    x = centres(nx)
    generator = torch.Generator().manual_seed(seed)
    amplitude, phase = torch.rand(2, n, 4, 1, generator=generator, dtype=torch.float64)
    wave_number = torch.arange(1, 5)[:, None]
    return (0.5 * amplitude * torch.sin(2 * math.pi * (wave_number * x + phase))).sum(dim=1) + 0.3


@pytest.mark.parametrize(
    ("nu", "nx"),
    [(0.004, 1024), (0.01, 512), (0.1, 256), (1.0, 128)],
)
def test_burgers_agrees_with_the_exact_cole_hopf_solution(nu, nx):
    u0 = smooth_rows(3, nx, seed=1)
    fine = smooth_rows(3, 4096, seed=1)
    frames = [1, 2, 10, 40]

    u = burgers1d.solve(u0, nu, TIMES)

    points = slice(nx // 64, None, nx // 32)
    for row in range(3):
        exact = torch.stack([cole_hopf(fine[row], nu, TIMES[frame], centres(nx)[points]) for frame in frames])
        assert nrmse(u[row, frames, points], exact) <= 1e-4


def test_burgers_with_pdebench_initial_conditions_agrees_with_the_exact_solution():
    u0 = random_waves(8, 512, np.random.default_rng(0))
    fine = random_waves(8, 4096, np.random.default_rng(0))

    u = burgers1d.solve(u0, 0.01, TIMES)

    for row in range(8):
        exact = torch.stack([cole_hopf(fine[row], 0.01, TIMES[frame], centres(512)[8::16]) for frame in (2, 20)])
        assert nrmse(u[row, (2, 20), 8::16], exact) <= 1e-4


def test_burgers_conserves_the_mean_and_loses_energy():
    u0 = random_waves(6, 256, np.random.default_rng(3))

    u = burgers1d.solve(u0, 0.02, TIMES)

    assert_close(u.mean(dim=-1), u0.mean(dim=-1, keepdim=True).expand(-1, 41), rtol=0, atol=1e-12)
    assert bool((u.square().mean(dim=-1).diff(dim=-1) <= 1e-6).all())


def test_burgers_returns_the_initial_condition_at_time_zero():
    u0 = random_waves(3, 128, np.random.default_rng(3))

    u = burgers1d.solve(u0, 0.1, [0.0, 0.1])

    assert_close(u[:, 0], u0, rtol=0, atol=0)


def test_burgers_of_a_constant_stays_constant():
    u = burgers1d.solve(torch.full((1, 64), 0.7), 0.01, [0.0, 1.0])

    assert_close(u, torch.full((1, 2, 64), 0.7).double(), rtol=0, atol=1e-7)


def test_burgers_rows_do_not_depend_on_their_neighbours():
    u0 = random_waves(40, 128, np.random.default_rng(5))

    together = burgers1d.solve(u0, 0.05, TIMES[:5])
    alone = torch.cat([burgers1d.solve(u0[row : row + 1], 0.05, TIMES[:5]) for row in range(40)])

    assert_close(alone, together, rtol=0, atol=1e-13)


def test_burgers_refuses_a_grid_too_coarse_for_the_shock():
    u0 = smooth_rows(2, 128, seed=1)

    with pytest.raises(SolverFailed, match=r"128 points do not resolve nu=0\.001 .* Solve on 256 points or more"):
        burgers1d.solve(u0, 0.001, TIMES)


def test_burgers_grid_grows_as_the_viscosity_falls():
    points = [burgers1d.resolution(nu, 256) for nu in (1.0, 0.01, 0.004, 0.002, 0.001)]

    assert points == [512, 512, 1024, 2048, 4096]


@pytest.mark.parametrize("solve", [burgers1d.solve, advection1d.solve])
@pytest.mark.parametrize("times", [[], [0.1, 0.2], [0.0, 0.1, 0.1]])
def test_output_times_must_start_at_zero_and_increase(solve, times):
    with pytest.raises(ValueError, match="must start at 0 and increase"):
        solve(torch.zeros(1, 16), 0.1, times)


def test_solvers_report_the_number_of_finished_samples():
    burgers: list[int] = []
    advection: list[int] = []
    darcy: list[int] = []
    u0 = random_waves(40, 64, np.random.default_rng(0))

    burgers1d.solve(u0, 1.0, [0.0, 0.01], on_progress=burgers.append)
    advection1d.solve(u0, 1.0, [0.0, 0.01], on_progress=advection.append)
    darcy2d.solve(torch.ones(40, 8, 8), 1.0, on_progress=darcy.append)

    assert burgers == sorted(burgers)
    assert burgers[-1] == 40
    assert advection == darcy == [32, 40]


def test_solvers_leave_the_number_of_threads_as_it_was():
    before = torch.get_num_threads()

    burgers1d.solve(torch.zeros(1, 16), 0.1, [0.0, 0.1])
    darcy2d.solve(torch.ones(1, 4, 4), 1.0)

    assert torch.get_num_threads() == before


@pytest.mark.parametrize("beta", [0.1, 1.0, 7.0])
def test_advection_shifts_the_initial_condition(beta):
    x = centres(128)

    def u0(points: Tensor) -> Tensor:
        return torch.sin(2 * math.pi * points) + 0.5 * torch.cos(6 * math.pi * points) + 0.2

    u = advection1d.solve(u0(x)[None], beta, TIMES)

    exact = torch.stack([u0(x - beta * t) for t in TIMES])
    assert_close(u[0], exact, rtol=0, atol=1e-12)


def poisson_series(n: int) -> Tensor:
    """-laplace u = 1 on the unit square at cell centres, (n, n). Double sine series, summed in one direction.

    u = x(1-x)/2 - sum_odd 4 sin(k pi x) cosh(k pi (y - 1/2)) / (k^3 pi^3 cosh(k pi / 2)).
    """
    x, y = centres(n)[:, None, None], centres(n)[None, :, None]
    k = math.pi * torch.arange(1, 200, 2, dtype=torch.float64)
    cosh_ratio = (torch.exp(k * (y - 1)) + torch.exp(-k * y)) / (1 + torch.exp(-k))
    return (x * (1 - x) / 2)[..., 0] - (4 * torch.sin(k * x) * cosh_ratio / k**3).sum(dim=-1)


def test_darcy_of_constant_coefficients_converges_to_the_series_with_second_order():
    errors = []
    for n in (16, 32, 64):
        u = darcy2d.solve(torch.full((1, n, n), 0.5), 2.0)[0]
        errors.append(float((u - 4 * poisson_series(n)).norm() / u.norm()))

    assert errors[-1] < 6e-4
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_darcy_flux_is_continuous_where_the_coefficient_jumps():
    n = 64
    a = torch.ones(1, n, n)
    a[:, n // 2 :] = 0.1

    u = darcy2d.solve(a, 1.0)[0]

    middle = u[:, n // 2]
    flux_below = 1.0 * (middle[n // 2 - 1] - middle[n // 2 - 2])
    flux_above = 0.1 * (middle[n // 2 + 1] - middle[n // 2])
    assert float(flux_below) == pytest.approx(float(flux_above), abs=3 / n**2)


def test_darcy_solution_satisfies_its_equations_and_is_positive():
    a = darcy2d.random_coefficients(20, 24, np.random.default_rng(0)).double()

    u = darcy2d.solve(a, 3.0)

    padded_a, padded_u = (torch.nn.functional.pad(field, (1, 1, 1, 1)) for field in (a, u))
    outflow = torch.zeros_like(u)
    for dim, shift in ((1, 1), (1, -1), (2, 1), (2, -1)):
        other_a, other_u = (field.roll(shift, dim)[:, 1:-1, 1:-1] for field in (padded_a, padded_u))
        inside = other_a > 0
        conductivity = torch.where(inside, 2 * a * other_a / (a + other_a), 2 * a)
        outflow += 24**2 * conductivity * (u - other_u)
    assert_close(outflow, torch.full_like(outflow, 3.0), rtol=1e-8, atol=0)
    assert bool((u > 0).all())


def test_darcy_solution_keeps_the_symmetries_of_the_square():
    a = darcy2d.random_coefficients(4, 16, np.random.default_rng(1))

    u = darcy2d.solve(a, 1.0)

    assert_close(darcy2d.solve(a.transpose(1, 2), 1.0), u.transpose(1, 2), rtol=1e-8, atol=1e-12)
    assert_close(darcy2d.solve(a.flip(1), 1.0), u.flip(1), rtol=1e-8, atol=1e-12)


def test_darcy_takes_one_beta_for_each_sample():
    a = darcy2d.random_coefficients(3, 8, np.random.default_rng(1))

    u = darcy2d.solve(a, torch.tensor([0.01, 1.0, 100.0]))

    assert_close(u, torch.tensor([0.01, 1.0, 100.0]).double()[:, None, None] * darcy2d.solve(a, 1.0))


def test_darcy_rows_do_not_depend_on_their_neighbours():
    a = darcy2d.random_coefficients(5, 16, np.random.default_rng(2))

    together = darcy2d.solve(a, 1.0)

    assert_close(darcy2d.solve(a[3:4], 1.0), together[3:4], rtol=1e-12, atol=0)


@pytest.mark.filterwarnings("error")
def test_darcy_refuses_to_return_what_did_not_converge():
    a = torch.ones(1, 16, 16)
    a[0, 4:12, ::2] = 1e-18

    with pytest.raises(SolverFailed, match=r"relative residual .* on 16\^2 cells"):
        darcy2d.solve(a, 1.0)


@pytest.mark.parametrize("a", [torch.ones(4, 4), torch.ones(1, 4, 5), torch.zeros(1, 4, 4)])
def test_darcy_refuses_coefficients_that_are_no_square_positive_fields(a):
    with pytest.raises(ValueError, match="positive coefficients"):
        darcy2d.solve(a, 1.0)


@pytest.mark.parametrize("draw", [random_waves, darcy2d.random_coefficients])
def test_a_random_sample_depends_on_seed_and_index_alone(draw):
    many = draw(9, 32, np.random.default_rng(11))
    few = draw(4, 32, np.random.default_rng(11))
    rng = np.random.default_rng(11)
    in_two_calls = torch.cat([draw(4, 32, rng), draw(5, 32, rng)])
    other_seed = draw(4, 32, np.random.default_rng(12))

    assert torch.equal(few, many[:4])
    assert torch.equal(in_two_calls, many)
    assert not torch.equal(other_seed, few)


def test_random_waves_are_the_same_functions_on_every_grid():
    coarse = random_waves(20, 64, np.random.default_rng(0))
    fine = random_waves(20, 192, np.random.default_rng(0))

    assert_close(fine[:, 1::3], coarse, rtol=0, atol=1e-12)


def test_random_waves_have_the_distribution_of_pdebench():
    u = random_waves(3000, 64, np.random.default_rng(0))

    spread = u.std(dim=-1)
    is_cut = u[:, 0].abs().lt(1e-6) & u[:, -1].abs().lt(1e-6)
    assert float(is_cut.double().mean()) == pytest.approx(0.1, abs=0.02)
    assert float(u.mean(dim=-1).std()) > 0.3  # undrawn modes leave a constant
    assert float(u.mean()) == pytest.approx(0, abs=0.05)  # random signs
    assert 0.3 < float(spread.mean()) < 0.7
    assert float(u.abs().max()) < 4


def test_random_coefficients_take_two_values_and_are_never_constant():
    fields = darcy2d.random_coefficients(400, 3, np.random.default_rng(0))

    assert fields.unique().tolist() == [0.1, 1.0]
    assert bool((fields.amax(dim=(1, 2)) > fields.amin(dim=(1, 2))).all())
    assert 0.4 < float((fields == 1).double().mean()) < 0.6


def test_random_coefficients_need_two_cells_a_side():
    with pytest.raises(ValueError, match="cannot take two values"):
        darcy2d.random_coefficients(1, 1, np.random.default_rng(0))
