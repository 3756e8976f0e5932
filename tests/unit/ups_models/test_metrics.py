"""Metrics against closed forms, brute force and the invariants they promise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ups_models.evaluation import metrics

SEEDS = st.integers(0, 2**31 - 1)
few = settings(max_examples=25)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute_force_fair_crps(samples: Tensor, target: Tensor) -> Tensor:
    members = len(samples)
    pairs = (samples[:, None] - samples[None]).abs().sum((0, 1))
    return (samples - target).abs().mean(0) - pairs / (2 * members * (members - 1))


def sine(k: int, amplitude: float = 1.0, points: int = 64) -> Tensor:
    return amplitude * torch.sin(2 * math.pi * k * torch.arange(points, dtype=torch.float64) / points)


# --- errors of fields


def test_nrmse_of_a_uniformly_scaled_prediction_is_the_scaling_error():
    target = normal(3, 4, 32, seed=1)

    error = metrics.nrmse(1.25 * target, target)

    assert_close(error, torch.full((3, 4), 0.25, dtype=torch.float64))


def test_nrmse_over_two_axes_measures_a_whole_image():
    target = normal(3, 8, 8, seed=2)

    error = metrics.nrmse(torch.zeros_like(target), target, dim=(-2, -1))

    assert_close(error, torch.ones(3, dtype=torch.float64))


def test_the_spatial_mean_as_prediction_has_vrmse_one():
    target = normal(3, 4, 32, seed=3) + 5

    error = metrics.vrmse(target.mean(-1, keepdim=True).expand_as(target), target)

    assert_close(error, torch.ones(3, 4, dtype=torch.float64))


def test_mae_of_a_constant_shift_is_the_shift():
    target = normal(2, 3, 16, seed=4)

    assert_close(metrics.mae(target - 0.5, target), torch.full((2, 3), 0.5, dtype=torch.float64))


@few
@given(seed=SEEDS, scale=st.floats(1e-3, 1e3))
def test_relative_errors_do_not_depend_on_the_unit_of_the_field(seed, scale):
    target, prediction = normal(2, 3, 16, seed=seed), normal(2, 3, 16, seed=seed + 1)

    for metric in (metrics.nrmse, metrics.vrmse):
        assert_close(metric(scale * prediction, scale * target), metric(prediction, target))


@few
@given(seed=SEEDS)
def test_a_perfect_prediction_has_no_error(seed):
    target = normal(2, 3, 32, seed=seed)

    for metric in (metrics.nrmse, metrics.vrmse, metrics.mae):
        assert metric(target, target).abs().max() == 0
    assert set(vars(metrics.pdebench(target, target)).values()) == {0.0}


# --- PDEBench


def test_pdebench_figures_of_a_constant_error_follow_their_formulas():
    target = torch.ones(5, 3, 64, dtype=torch.float64)

    result = metrics.pdebench(target + 0.5, target, length=2.0)

    assert result.rmse == result.nrmse == result.crmse == result.max_error == result.brmse == pytest.approx(0.5)
    assert result.frmse_low == pytest.approx(0.5 * 2.0 / 4)
    assert result.frmse_mid == pytest.approx(0, abs=1e-12)
    assert result.frmse_high == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("k", "band", "modes"), [(2, "frmse_low", 4), (7, "frmse_mid", 8), (20, "frmse_high", 21)])
def test_an_error_of_one_wave_number_shows_in_its_band_alone(k, band, modes):
    target = torch.ones(4, 2, 64, dtype=torch.float64)

    result = vars(metrics.pdebench(target + sine(k, amplitude=0.6), target))

    assert result.pop(band) == pytest.approx(0.3 / modes)
    assert [result[name] for name in result if name.startswith("frmse")] == pytest.approx([0, 0], abs=1e-12)


@few
@given(seed=SEEDS)
def test_fourier_bands_hold_the_whole_error_by_parseval(seed):
    error = sum(c * sine(k) for k, c in zip((1, 6, 25), normal(3, seed=seed).tolist(), strict=True))
    target = torch.zeros(1, 1, 64, dtype=torch.float64)

    result = metrics.pdebench(target + error, target)

    bands = (result.frmse_low * 4, result.frmse_mid * 8, result.frmse_high * 21)
    assert math.sqrt(sum(2 * band**2 for band in bands)) == pytest.approx(result.rmse)


def test_pdebench_averages_ratios_over_trajectories_but_squares_inside_crmse():
    target = torch.ones(2, 1, 16, dtype=torch.float64) * torch.tensor([1.0, 10.0])[:, None, None]
    prediction = target + torch.tensor([1.0, -2.0])[:, None, None]

    result = metrics.pdebench(prediction, target)

    assert result.nrmse == pytest.approx((1 + 0.2) / 2)
    assert result.rmse == pytest.approx(1.5)
    assert result.crmse == pytest.approx(math.sqrt((1 + 4) / 2))
    assert result.max_error == pytest.approx(2)


def test_the_maximum_is_taken_over_space_and_averaged_over_time():
    target = torch.zeros(2, 2, 16)
    prediction = target.clone()
    prediction[0, 0, 3], prediction[1, 1, 5] = 4.0, -2.0

    assert metrics.pdebench(prediction, target + 1e-9).max_error == pytest.approx(3.0)


def test_a_grid_without_high_wave_numbers_has_no_high_band():
    target = normal(2, 2, 16, seed=5)

    assert math.isnan(metrics.pdebench(2 * target, target).frmse_high)


# --- correlation and intervals


def test_correlation_time_is_the_first_time_under_the_threshold():
    phase = torch.arange(5, dtype=torch.float64)[:, None] * math.pi / 8
    x = torch.linspace(0, 2 * math.pi, 65, dtype=torch.float64)[:-1]
    target, prediction = torch.sin(x).expand(2, 5, 64), torch.sin(x + phase).expand(2, 5, 64)
    t = torch.arange(5) * 0.1

    assert metrics.correlation_time(prediction, target, t, 0.8) == pytest.approx(0.2)  # cos(pi / 4) = 0.71
    assert metrics.correlation_time(prediction, target, t, 0.95) == pytest.approx(0.1)  # cos(pi / 8) = 0.92


def test_a_correlation_that_never_falls_saturates_at_the_last_time():
    target = normal(3, 4, 32, seed=6)

    assert metrics.correlation_time(2 * target + 1, target, torch.arange(4.0), 0.9) == 3.0


def test_a_constant_prediction_correlates_with_nothing():
    target = torch.rand(3, 4, 256, generator=torch.Generator().manual_seed(7))
    constant = target.mean(-1, keepdim=True).expand_as(target)

    assert metrics.correlation_time(constant, target, torch.arange(4.0) + 1, 0.1) == 1.0


def test_bootstrap_interval_of_normal_values_matches_the_textbook():
    values = normal(400, seed=8)

    low, high = metrics.bootstrap_ci(values, seed=0)

    half = 1.96 * float(values.std()) / math.sqrt(400)
    assert low == pytest.approx(float(values.mean()) - half, abs=0.01)
    assert high == pytest.approx(float(values.mean()) + half, abs=0.01)


def test_bootstrap_interval_is_decided_by_its_seed():
    values = normal(20, seed=9)

    assert metrics.bootstrap_ci(values, seed=3) == metrics.bootstrap_ci(values, seed=3)
    assert metrics.bootstrap_ci(values, seed=3) != metrics.bootstrap_ci(values, seed=4)


# --- ensembles


@few
@given(seed=SEEDS, members=st.integers(2, 9))
def test_crps_by_sorting_equals_the_double_sum(seed, members):
    samples, target = normal(members, 3, 4, seed=seed), normal(3, 4, seed=seed + 1)

    assert_close(metrics.fair_crps(samples, target), brute_force_fair_crps(samples, target))


@pytest.mark.parametrize("members", [2, 3, 8, 32])
def test_crps_of_a_standard_normal_is_that_of_its_law_whatever_the_number_of_members(members):
    samples, target = normal(members, 200_000, seed=members), normal(200_000, seed=10)

    score = metrics.fair_crps(samples, target)

    assert float(score.mean()) == pytest.approx(1 / math.sqrt(math.pi), abs=4 * float(score.std()) / 200_000**0.5)


@few
@given(seed=SEEDS, members=st.integers(2, 8))
def test_crps_of_identical_members_is_the_absolute_error(seed, members):
    forecast, target = normal(5, 6, seed=seed), normal(5, 6, seed=seed + 1)

    assert_close(metrics.fair_crps(forecast.expand(members, 5, 6), target), (forecast - target).abs())


def test_crps_keeps_single_precision():
    samples, target = normal(8, 100, seed=11), normal(100, seed=12)

    single = metrics.fair_crps(samples.float(), target.float())

    assert single.dtype == torch.float32
    assert_close(single.double(), brute_force_fair_crps(samples, target), atol=1e-5, rtol=1e-4)


def test_crps_of_one_member_is_refused():
    with pytest.raises(ValueError, match="2 members or more, got 1"):
        metrics.fair_crps(normal(1, 4, seed=0), normal(4, seed=1))


@pytest.mark.parametrize("members", [4, 16])
def test_spread_of_a_calibrated_ensemble_equals_its_error(members):
    samples, target = normal(members, 50_000, seed=13), normal(50_000, seed=14)

    assert metrics.spread_skill(samples, target) == pytest.approx(1, abs=0.01)
    assert metrics.spread_skill(0.5 * samples, target) < 0.6
    assert metrics.spread_skill(2.0 * samples, target) > 1.5


def test_normalised_spread_counts_small_and_large_samples_alike():
    unit = torch.tensor([1e-3, 1.0], dtype=torch.float64).repeat(5_000)
    samples, target = normal(8, 10_000, 3, seed=15), normal(10_000, 3, seed=16)
    samples[:, ::2] *= 0.5  # half of the samples too narrow, but only where the unit is small

    absolute = metrics.spread_skill(samples * unit[:, None], target * unit[:, None])
    normalised = metrics.spread_skill(samples * unit[:, None], target * unit[:, None], scale=unit)

    assert absolute == pytest.approx(1, abs=0.02)
    assert normalised == pytest.approx(metrics.spread_skill(samples, target))
    assert normalised < 0.9


def test_ranks_count_the_members_under_the_target():
    samples = torch.tensor([[1.0, 1.0, 1.0], [3.0, 3.0, 3.0]])

    rank = metrics.ranks(samples, torch.tensor([0.0, 2.0, 9.0]), torch.Generator().manual_seed(0))

    assert rank.tolist() == [0, 1, 2]


def test_ranks_among_ties_are_drawn_evenly_and_by_the_seed():
    samples, target = torch.zeros(3, 40_000), torch.zeros(40_000)

    first = metrics.ranks(samples, target, torch.Generator().manual_seed(1))
    again = metrics.ranks(samples, target, torch.Generator().manual_seed(1))

    assert torch.equal(first, again)
    assert_close(metrics.rank_frequencies(first, 3), torch.full((4,), 0.25, dtype=torch.float64), atol=0.01, rtol=0)


def test_rank_histogram_of_a_calibrated_ensemble_is_flat_and_sums_to_one():
    samples, target = normal(7, 80_000, seed=17), normal(80_000, seed=18)

    histogram = metrics.rank_frequencies(metrics.ranks(samples, target, torch.Generator().manual_seed(2)), len(samples))

    assert float(histogram.sum()) == pytest.approx(1)
    assert_close(histogram, torch.full((8,), 1 / 8, dtype=torch.float64), atol=0.006, rtol=0)


@few
@given(members=st.integers(1, 40), level=st.floats(0, 1))
def test_uniform_ranks_cover_exactly_their_level(members, level):
    uniform = torch.arange(members + 1)

    assert metrics.coverage(uniform, members, level) == pytest.approx(level, abs=1e-12)
    assert metrics.ece(uniform, members, [level]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_a_small_calibrated_ensemble_covers_its_level(level):
    samples, target = normal(8, 80_000, seed=19), normal(80_000, seed=20)
    rank = metrics.ranks(samples, target, torch.Generator().manual_seed(3))

    assert metrics.coverage(rank, 8, level) == pytest.approx(level, abs=0.006)
    assert metrics.ece(rank, 8) < 0.005


def test_calibration_error_sees_both_too_narrow_and_too_wide():
    rng = torch.Generator().manual_seed(4)
    samples, target = normal(16, 20_000, seed=21), normal(20_000, seed=22)

    narrow, wide = metrics.ranks(0.4 * samples, target, rng), metrics.ranks(2.5 * samples, target, rng)

    assert metrics.coverage(narrow, 16, 0.8) < 0.6
    assert metrics.coverage(wide, 16, 0.8) > 0.9
    assert min(metrics.ece(narrow, 16), metrics.ece(wide, 16)) > 0.1
