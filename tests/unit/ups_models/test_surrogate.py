"""Using what was trained: `load_surrogate` on a run, and `ups predict` from file to file."""

import logging
import shutil

import numpy as np
import pytest
import torch

from ups_models import load_surrogate
from ups_models.data.layouts.reading import load_fields
from ups_models.errors import BadInput, CheckpointError
from ups_models.evaluation.rollout import rollout
from ups_models.stages.lineage import read_lineage

POINTS = 64
SINE = np.sin(2 * np.pi * (np.arange(POINTS) + 0.5) / POINTS).astype(np.float32)


@pytest.fixture(scope="module")
def surrogate(finished_run):
    return load_surrogate(finished_run)


@pytest.fixture
def copy(finished_run, tmp_path):
    """A run that may be spoilt."""
    return shutil.copytree(finished_run, tmp_path / "run")


def test_it_says_what_it_was_trained_on(surrogate, finished_run):
    lineage = read_lineage(finished_run / "checkpoints" / "operator_ema.pt")

    assert lineage is not None
    assert surrogate.problem.name == "burgers1d"
    assert surrogate.parameters == ("Nu",)
    assert surrogate.trained_on == lineage.trained_on
    assert surrogate.trained_on["parameters"]["Nu"] == pytest.approx([0.1, 0.1])
    assert surrogate.trained_on["points"] == [POINTS]


def test_a_rollout_is_that_of_the_operator_and_begins_with_the_field(surrogate):
    found = surrogate.rollout(SINE, steps=6, nu=0.1)

    told = torch.tensor([[0.1, surrogate.dt]]).log()
    every = surrogate.cfg.operator.reencode_every
    wanted = rollout(surrogate.operator, torch.from_numpy(SINE)[None, None], told, steps=6, reencode_every=every)
    assert found.u.shape == (7, 1, POINTS)
    assert np.array_equal(found.u[0, 0], SINE)
    assert np.allclose(found.u[1:], wanted[0].numpy(), atol=1e-6)
    assert found.t.tolist() == pytest.approx([step * surrogate.dt for step in range(7)])
    assert list(found.coordinates) == ["x"]


def test_coordinates_are_those_of_the_data(surrogate, finished_run):
    [path] = (finished_run / "data").glob("1D_Burgers*.hdf5")

    x = load_fields([path], surrogate.problem).axes[0].numpy()

    assert np.allclose(surrogate.coordinates["x"], x, atol=1e-7)


def test_members_are_a_function_of_their_seed(surrogate):
    one, same, other = (surrogate.rollout(SINE, steps=3, members=4, seed=seed, nu=0.1).u for seed in (0, 0, 1))

    assert one.shape == (4, 4, 1, POINTS)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert surrogate.sample(SINE, members=5, nu=0.1).shape == (5, 1, POINTS)


def test_every_field_of_an_ensemble_has_noise_of_its_own_however_many_there_are(surrogate, monkeypatch):
    monkeypatch.setattr("ups_models.surrogate.BATCH", 2)
    same = np.stack([SINE] * 4)

    forecast = surrogate.rollout(same, steps=1, members=3, nu=0.1).u
    samples = surrogate.sample(same, members=3, nu=0.1)

    assert not np.array_equal(forecast[:, :2], forecast[:, 2:])
    assert np.allclose(forecast[:, :, 1], samples, atol=1e-6)


def test_many_fields_may_have_a_parameter_each(surrogate, caplog):
    both = surrogate.rollout(np.stack([SINE, SINE]), steps=2, nu=[0.1, 0.2]).u
    alone = surrogate.rollout(SINE, steps=2, Nu=0.2).u

    assert both.shape == (2, 3, 1, POINTS)
    assert np.allclose(both[1], alone, atol=1e-6)
    assert np.allclose(surrogate.step(np.stack([SINE, SINE]), nu=0.1), both[0, 1], atol=1e-6)
    assert "Nu=0.2 is outside what was trained on, 0.1 to 0.1" in caplog.text


def test_the_only_value_that_it_was_trained_on_need_not_be_said(surrogate, caplog):
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(surrogate.rollout(SINE, steps=1).u, surrogate.rollout(SINE, steps=1, nu=0.1).u)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"u0": SINE[:32]}, r"shape \(32,\) were given, but burgers1d was trained on finite ones of \(N, 1, 64\)"),
        ({"u0": np.full(POINTS, np.nan)}, "finite ones"),
        ({"u0": np.ma.masked_greater(SINE, 0)}, "fields: some numbers are masked"),
        ({"mu": 1.0}, "burgers1d has no parameter 'mu'; its parameters: Nu"),
        ({"nu": -1.0}, "Nu=-1 is not possible for burgers1d"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 2.5}, r"steps=2\.5 is not possible; use a whole number above zero"),
        ({"members": 0}, "members=0"),
        ({"seed": 2**70, "members": 2}, "seed=.* is not possible"),
        ({"seed": True, "members": 2}, "seed=True is not possible"),
        ({"members": 10**12}, r"this forecast needs .* GB of memory, and this machine has .*; ask for fewer"),
        ({"nu": True}, "Nu: are no real numbers"),
        ({"members": 2, "sampler": ["diffusion"]}, "there is no sampler"),
        ({"nu": 0.1, "Nu": 0.2}, "is given twice, in two spellings"),
        ({"nu": "much"}, "Nu: are no real numbers"),
        ({"nu": []}, "Nu has no value"),
        ({"u0": SINE + 1j}, "fields: are no real numbers"),
        ({"u0": np.zeros((0, 1, POINTS))}, "finite ones"),
        ({"sampler": "diffusion"}, "samples members; say how many"),
        ({"members": 2, "sampler": "guess"}, "there is no sampler 'guess'; trained: diffusion"),
    ],
)
def test_what_it_was_not_trained_for_is_one_sentence(surrogate, request_, message):
    with pytest.raises(BadInput, match=message):
        surrogate.rollout(**({"u0": SINE, "steps": 1} | request_))


def test_what_is_no_run_says_what_to_do(tmp_path):
    with pytest.raises(BadInput, match=r"is no run: it holds no config\.yaml.*a W&B run as entity/project/id"):
        load_surrogate(tmp_path)


def test_checkpoints_of_two_trainings_are_not_put_together(copy, finished_run):
    other = copy / "checkpoints"
    shutil.copy(other / "operator.pt", other / "operator_ema.pt")

    with pytest.raises(CheckpointError, match=r"was trained with another operator_ema\.pt than lies beside it"):
        load_surrogate(copy)


def test_without_an_operator_there_is_nothing_to_use(copy):
    (copy / "checkpoints" / "operator_ema.pt").unlink()

    with pytest.raises(CheckpointError, match="train the operator first"):
        load_surrogate(copy)


def test_weights_that_do_not_say_what_they_were_trained_on_need_their_parameters(copy, monkeypatch):
    monkeypatch.setattr("ups_models.surrogate.read_lineage", lambda path: None)

    found = load_surrogate(copy)

    assert found.trained_on == {}
    assert found.rollout(SINE, steps=1, nu=7.0).u.shape == (2, 1, POINTS)
    with pytest.raises(BadInput, match=r"Nu is missing: give its value, as in nu=0\.01"):
        found.rollout(SINE, steps=1)


def test_a_prediction_goes_from_file_to_file(ups, finished_run, here, surrogate):
    np.savez(here / "u0.npz", u0=np.stack([SINE, SINE]), nu=np.array([0.1, 0.1]))

    done = ups(
        "predict", "--run", str(finished_run), "--input", "u0.npz", "--output", "u.npz", "--steps", "3", cwd=here
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"u.npz: u 2 x 4 x 1 x {POINTS}"
    with np.load(here / "u.npz") as found:
        assert set(found) == {"u", "t", "x"}
        assert np.allclose(found["u"][0], surrogate.rollout(SINE, steps=3, nu=0.1).u, atol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "flags", "message"),
    [
        ({"v": SINE}, [], "holds no array u0, but 'v'"),
        ({"u0": np.array([None])}, [], "is no .npz file of plain arrays"),
        ({"u0": SINE}, ["--parameter", "nu"], "write it as NAME=VALUE"),
        ({"u0": SINE}, ["--parameter", "mu=1"], "has no parameter 'mu'"),
        ({"u0": SINE}, ["--parameter", "nu=0.1", "--parameter", "NU=0.2"], "--parameter 'NU': is given twice"),
        ({"u0": SINE}, ["--output", "u.h5"], "--output u.h5: forecasts are written by NumPy; name the file *.npz"),
        ({"u0": SINE}, ["--output", "u0.npz"], "--output u0.npz: is the --input, which would be lost"),
        (None, [], "no such file; write it with numpy.savez('u0.npz', u0=...)"),
    ],
)
def test_a_file_that_cannot_be_predicted_from_is_refused(ups, finished_run, here, arrays, flags, message):
    if arrays is not None:
        np.savez(here / "u0.npz", **arrays)

    done = ups("predict", "--run", str(finished_run), "--input", "u0.npz", "--output", "u.npz", *flags, cwd=here)

    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (here / "u.npz").exists()


def test_a_forecast_that_is_not_finite_is_not_written(ups, finished_run, here):
    np.savez(here / "u0.npz", u0=np.stack([SINE, 3e38 * SINE]))

    done = ups("predict", str(finished_run), "--input", "u0.npz", "--output", "u.npz", "--steps", "2", cwd=here)

    assert done.returncode == 1, done.stdout
    assert "the forecast is not finite from step 1 on, and nothing was written" in done.stderr
    assert not (here / "u.npz").exists()
