"""Batches: functions of their generator, augmented by what is exact."""

import math

import pytest
import torch

from ups_models.data.batches import steady_batch, window_batch
from ups_models.data.fields import SteadyFields, Trajectories


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def trajectories(family):
    u = torch.randn(6, 9, 16, generator=rng())
    return Trajectories(family, u, torch.arange(16) / 16, torch.arange(9) * 0.1, torch.full((6,), 0.5), torch.arange(6))


@pytest.mark.parametrize("family", ["burgers1d", "advection1d"])
def test_a_batch_is_a_function_of_its_generator_alone(family):
    data = trajectories(family)

    one, same, other = (window_batch(data, rng(seed), size=4, length=3) for seed in (1, 1, 2))

    assert torch.equal(one["u"], same["u"])
    assert not torch.equal(one["u"], other["u"])
    assert one["u"].shape == (4, 3, 16)
    assert one["parameters"][0].tolist() == pytest.approx([math.log(0.5), math.log(0.1)], abs=1e-5)


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


def test_steady_pairs_are_turned_together():
    a = torch.rand(5, 6, 6, generator=rng())
    data = SteadyFields(a, 2 * a, torch.ones(5), torch.arange(5))

    batches = [steady_batch(data, rng(seed), size=3) for seed in range(12)]

    assert all(torch.equal(batch["u"], 2 * batch["a"]) for batch in batches)
    assert len({tuple(batch["a"][0].flatten()[:3].tolist()) for batch in batches}) > 1
