"""The equations of APEBench's protocol: what their difficulties mean, and how they are solved."""

import numpy as np
import pytest
import torch

from flows import ROOT
from harness.bench.apebench import PUBLISHED, gmean
from ups_models.evaluation.metrics import nrmse
from ups_models.problems import burgers1d, kdv1d
from ups_models.problems.finding import evolving_problem

FILE = ROOT / "configs" / "bench" / "apebench" / "problems.py"


def problem(name):
    return evolving_problem(f"{FILE}:{name}")


def solved(name, steps, n=4, points=160):
    how = problem(name).how()
    u0 = how.initial(n, (points,), {}, np.random.default_rng(0))
    return how.solve(u0, {}, [float(step) for step in range(steps + 1)], None)


def test_every_published_equation_is_there():
    assert {problem(name.upper()).name for name in PUBLISHED} == {"apebench_ks", "apebench_kdv", "apebench_burgers"}


def test_kdv_is_the_shipped_equation_as_far_as_their_second_order_in_steps_of_one_allows():
    u = solved("KDV", 20)

    reference = kdv1d.solve(u[:, 0], {"nu": 1.717e-9}, [float(step) for step in range(21)])

    error = nrmse(u[:, :, 0], reference[:, :, 0]).mean(0)
    assert error[1] < 0.005
    assert error[20] < 0.05


def test_burgers_is_the_shipped_equation_in_other_units_of_time():
    u, speed, diffusion = solved("BURGERS", 50), 1.5 / 160, 1.5 / (2 * 160**2)
    fine = solved("BURGERS", 0, points=1280)[:, 0, 0]  # the same waves at x = i / 1280

    times = [speed * step for step in range(51)]
    reference = burgers1d.solve(fine, torch.pi * diffusion / speed, times)[..., ::8]

    assert nrmse(u[:, -1, 0], reference[:, -1]).max() < 0.01


def test_ks_starts_on_its_attractor_and_stays_there():
    u = solved("KS", 200)

    energy = u.square().mean(-1)[:, :, 0].mean(0)
    assert 0.7 < energy[100:].mean() / energy[:100].mean() < 1.4
    assert u.mean(-1).abs().max() < 1e-12


def test_initial_fields_depend_on_their_number_and_on_nothing_after_it():
    how = problem("KDV").how()

    few, many = (how.initial(n, (160,), {}, np.random.default_rng(773)) for n in (2, 5))

    assert torch.equal(few, many[:2])
    assert many.abs().amax(-1) == pytest.approx(torch.ones(5, 1))


def test_the_score_is_the_geometric_mean():
    assert gmean(torch.tensor([0.1, 0.001])) == pytest.approx(0.01)
