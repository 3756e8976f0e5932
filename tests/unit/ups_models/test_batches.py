"""Batches: functions of their generator, augmented by what is exact."""

import math
from dataclasses import replace

import pytest
import torch

from ups_models.data.batches import steady_batch, window_batch
from ups_models.data.fields import Fields, SteadyFields
from ups_models.problems.registry import EVOLVING, PROBLEMS


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def trajectories(family):
    problem = PROBLEMS[family]
    grid = (16,) * problem.dimensions
    u = torch.randn(6, 9, len(problem.channels), *grid, generator=rng())
    axes, parameters = tuple(torch.arange(n) / n for n in grid), torch.full((6, len(problem.parameters)), 0.5)
    return Fields(problem, u, axes, torch.arange(9) * 0.1, parameters, torch.arange(6))


@pytest.mark.parametrize("family", EVOLVING)
def test_a_batch_is_a_function_of_its_generator_alone(family):
    data = trajectories(family)

    one, same, other = (window_batch(data, rng(seed), size=4, length=3) for seed in (1, 1, 2))

    assert torch.equal(one["u"], same["u"])
    assert not torch.equal(one["u"], other["u"])
    assert one["u"].shape == (4, 3, *data.u.shape[2:])
    assert one["parameters"].shape == (4, len(data.problem.parameters) + 1)
    assert one["parameters"][0, -1].item() == pytest.approx(math.log(0.1), abs=1e-5)


def test_windows_of_advection_are_shifted_but_never_mirrored():
    data = trajectories("advection1d")
    windows = window_batch(data, rng(), size=32, length=1)["u"]
    sums = {round(value, 4) for value in data.u.sum(-1).flatten().tolist()}

    assert all(round(value, 4) in sums for value in windows.sum(-1).flatten().tolist())


def test_a_share_of_the_windows_starts_at_the_initial_field():
    data = trajectories("advection1d")
    data.u[:, 0] = 100.0

    always = window_batch(data, rng(), size=32, length=2, initial_fraction=1.0)["u"]

    assert bool((always[:, 0] == 100.0).all())


def test_parameters_are_told_as_logarithms_or_in_their_unit():
    data = trajectories("diffusion_reaction2d")

    told = data.conditioning()[0].tolist()

    assert told == pytest.approx([math.log(0.5), math.log(0.5), 0.5 / 5e-3, math.log(0.1)], abs=1e-4)


def test_windows_of_a_forced_flow_are_shifted_by_whole_waves_of_the_force():
    data = trajectories("kolmogorov2d")
    data.u[:] = torch.arange(16.0)  # along y, where the force has four waves

    windows = window_batch(data, rng(), size=64, length=1)["u"]

    assert set(windows[..., 0].unique().tolist()) == {0.0, 4.0, 8.0, 12.0}


def test_beyond_a_wall_nothing_is_shifted():
    data = trajectories("diffusion_reaction2d")
    data.u[:] = torch.arange(16.0)

    windows = window_batch(data, rng(), size=64, length=1)["u"]

    corners = {tuple(sorted((one[0, 0].item(), one[0, -1].item(), one[-1, 0].item()))) for one in windows[:, 0, 0]}
    assert corners <= {(0.0, 0.0, 15.0), (0.0, 15.0, 15.0)}


def test_steady_pairs_are_turned_together():
    a = torch.rand(5, 6, 6, generator=rng())
    data = SteadyFields(a, 2 * a, torch.ones(5), torch.arange(5))

    batches = [steady_batch(data, rng(seed), size=3) for seed in range(12)]

    assert all(torch.equal(batch["u"], 2 * batch["a"]) for batch in batches)
    assert len({tuple(batch["a"][0].flatten()[:3].tolist()) for batch in batches}) > 1


@pytest.mark.parametrize(("points", "length"), [((16, 24), 1.0), ((16, 16), 2.0)], ids=["points", "lengths"])
def test_axes_that_are_not_alike_are_never_exchanged(points, length):
    data = trajectories("kolmogorov2d")
    axes = (torch.arange(points[0]) / points[0], length * torch.arange(points[1]) / points[1])
    uneven = replace(data, stored=torch.randn(6, 9, 1, *points, generator=rng()), axes=axes)

    assert any(one.exchanges_axes for one in trajectories("gray_scott2d").symmetries)
    assert not any(one.exchanges_axes for one in replace(uneven, problem=PROBLEMS["gray_scott2d"]).symmetries)
    assert window_batch(uneven, rng(), size=4, length=2)["u"].shape == (4, 2, 1, *points)
