"""Files of plain arrays: what our solvers write for any problem, what a user may write, and what is refused."""

import h5py
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ups_models.data import rows
from ups_models.data.generate import generate
from ups_models.data.inspect import inspect
from ups_models.data.layouts.reading import load_fields, problem_in
from ups_models.errors import DataError
from ups_models.problems.registry import EVOLVING

SCHOTT = EVOLVING["gray_scott2d"]


def made_at(path, n):
    generate("gray_scott2d", path, n=n, seed=3, parameters=SCHOTT.defaults, nx=16, nt=3, t_end=20.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("arrays") / "made.h5"
    made_at(path, 3)
    return path


@pytest.fixture
def path(tmp_path, made):
    """A copy that may be spoilt."""
    copy = tmp_path / "a.h5"
    copy.write_bytes(made.read_bytes())
    return copy


def test_what_is_generated_is_read_with_its_problem_grid_and_parameters(made):
    fields = load_fields([made, made], SCHOTT, limit=2)

    assert problem_in(made) == SCHOTT.name
    assert fields.u.shape == (4, 3, 2, 16, 16)
    assert fields.u.dtype == torch.float32
    assert fields.dt == pytest.approx(10.0)
    assert_close(fields.parameters, torch.tensor([[0.04, 0.06]]).expand(4, 2))
    assert_close(fields.axes[0], -1 + 2 * torch.arange(16) / 16)
    assert fields.row.tolist() == [0, 1, 0, 1]


def test_every_other_point_and_time_can_be_left_out(made):
    whole, thin = load_fields([made], SCHOTT), load_fields([made], SCHOTT, stride=4, stride_t=2)

    assert torch.equal(thin.u, whole.u[:, ::2, :, ::4, ::4])
    assert torch.equal(thin.axes[1], whole.axes[1][::4])


def test_a_row_depends_on_the_seed_and_its_number_and_on_no_process(tmp_path, made, monkeypatch):
    monkeypatch.setattr(rows, "ROWS_AT_ONCE", 2)
    made_at(tmp_path / "many.h5", 5)

    assert_close(load_fields([tmp_path / "many.h5"], SCHOTT).u[:3], load_fields([made], SCHOTT).u, rtol=0, atol=1e-6)


def test_what_users_write_themselves_needs_no_more_than_arrays_and_names(tmp_path):
    problem, path = EVOLVING["ks1d"], tmp_path / "mine.h5"
    values = np.random.default_rng(0).standard_normal((4, 5, 1, 32)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file["u"], file["t"], file["x"] = values, np.arange(5.0), 2.0 * np.arange(32)
        file.attrs["nu"] = [1.0, 1.0, 2.0, 2.0]

    fields = load_fields([path], problem)

    assert np.array_equal(fields.u.numpy(), values)
    assert fields.parameters[:, 0].tolist() == [1.0, 1.0, 2.0, 2.0]
    assert problem_in(path) is None


def test_inspection_tells_what_a_file_holds(made):
    info = inspect(made)

    assert (info.problem, info.channels, info.n_samples, info.grid) == ("gray_scott2d", ("A", "B"), 3, (16, 16))
    assert info.parameters == {"F": "0.04", "k": "0.06"}
    assert info.dt == pytest.approx(10.0)
    assert [dataset.name for dataset in info.datasets] == ["u", "t", "x", "y"]


def rewritten(path, name, values):
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = values


def with_attribute(path, name, value):
    with h5py.File(path, "a") as file:
        file.attrs[name] = value


def without(path, name):
    with h5py.File(path, "a") as file:
        del file.attrs[name]


FAULTS = {
    r"holds ks1d, not gray_scott2d. Set data.problem: ks1d": lambda path: with_attribute(path, "problem", "ks1d"),
    r"its attribute 'problem' is 'wave'": lambda path: with_attribute(path, "problem", "wave"),
    r"F=9 is not possible for gray_scott2d": lambda path: with_attribute(path, "F", 9.0),
    r"attribute 'F' is .*, expected one number, or one for each": lambda path: with_attribute(path, "F", [0.1, 0.2]),
    r"'u' has shape \(3, 16, 16\), expected \(N, T, C, \*space\)": (
        lambda path: rewritten(path, "u", np.zeros((3, 16, 16), np.float32))
    ),
    r"'u' has shape \(3, 3, 3, 16, 16\), but gray_scott2d needs \(N, T, 2, x, y\), the channels being A, B": (
        lambda path: (rewritten(path, "u", np.zeros((3, 3, 3, 16, 16), np.float32)), without(path, "channels"))
    ),
    r"'u' has NaN or Inf, first in row 1": (
        lambda path: rewritten(
            path, "u", np.stack([np.arange(1536.0).reshape(3, 2, 16, 16) + one for one in (0.0, np.nan, 1.0)])
        )
    ),
    r"'x' has shape \(16,\), expected 16 increasing values": lambda path: rewritten(path, "x", np.arange(16.0) ** 2),
    r"'t' has shape \(4,\), expected 3 increasing values": lambda path: rewritten(path, "t", np.arange(4.0)),
    r"dataset 'u' holds int32, and floats are needed": lambda path: rewritten(
        path, "u", np.zeros((3, 3, 2, 16, 16), np.int32)
    ),
}


@pytest.mark.parametrize("message", FAULTS)
def test_what_is_wrong_with_a_file_is_one_line_that_names_it(path, message):
    FAULTS[message](path)

    with pytest.raises(DataError, match=rf"a\.h5: .*{message}") as caught:
        load_fields([path], SCHOTT)

    assert "\n" not in str(caught.value)


def test_a_missing_parameter_is_named(path):
    with h5py.File(path, "a") as file:
        del file.attrs["k"]

    with pytest.raises(DataError, match=r"a\.h5: attribute 'k' is missing"):
        load_fields([path], SCHOTT)


def test_a_stride_that_does_not_divide_the_grid_is_refused(made):
    with pytest.raises(DataError, match=r"reduced_resolution=3 does not divide the 16 x 16 points"):
        load_fields([made], SCHOTT, stride=3)


def write_ks(path, *, t=None, x=None, u=None, **attrs):
    """Four trajectories as a user writes them."""
    values = np.random.default_rng(0).standard_normal((4, 5, 1, 32)).astype(np.float32) if u is None else u
    with h5py.File(path, "w") as file:
        file["u"], file["t"] = values, np.arange(5.0) if t is None else t
        file["x"] = 2.0 * np.arange(32) if x is None else x
        file.attrs.update({"nu": 1.0, **attrs})
    return path


def test_a_time_step_is_exact_however_late_the_times_and_however_small_it_is(tmp_path):
    late = load_fields([write_ks(tmp_path / "a.h5", t=1e5 + 0.01 * np.arange(5))], EVOLVING["ks1d"])
    small = load_fields([write_ks(tmp_path / "b.h5", t=1.4e-10 * np.arange(5))], EVOLVING["ks1d"])

    assert late.dt == pytest.approx(0.01, rel=1e-6)
    assert small.facts()["dt"] == pytest.approx(1.4e-10, rel=1e-6)


def test_files_of_other_time_steps_are_not_put_together_however_small_the_steps(tmp_path):
    files = [write_ks(tmp_path / f"{dt}.h5", t=dt * np.arange(5)) for dt in (1e-7, 1e-6)]

    with pytest.raises(DataError, match="its t differs from that of"):
        load_fields(files, EVOLVING["ks1d"])


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"Nu": 0.5}, "nu and Nu both name nu, and differ|Nu and nu both name nu, and differ"),
        ({}, "nu is 1, and data.parameters says 0.5"),
    ],
)
def test_a_parameter_that_is_said_twice_is_not_chosen_between(tmp_path, attrs, message):
    said = {} if attrs else {"nu": 0.5}

    with pytest.raises(DataError, match=message):
        load_fields([write_ks(tmp_path / "a.h5", **attrs)], EVOLVING["ks1d"], said=said)


@pytest.mark.parametrize("x", [2 * np.pi * np.arange(32) / 32, np.linspace(0, 64, 32)], ids=["short", "end twice"])
def test_a_domain_of_another_length_is_refused(tmp_path, x):
    with pytest.raises(DataError, match=r"its x is .* long, but that of ks1d is 64.*a problem of your own"):
        load_fields([write_ks(tmp_path / "a.h5", x=x)], EVOLVING["ks1d"])


def test_a_name_may_be_bytes(tmp_path):
    path = write_ks(tmp_path / "a.h5", problem=np.bytes_("ks1d"))

    assert problem_in(path) == "ks1d"
    assert len(load_fields([path], EVOLVING["ks1d"]).u) == 4


def test_axes_of_an_unknown_problem_are_found_by_their_size(tmp_path):
    path = write_ks(tmp_path / "a.h5", problem="heat")
    with h5py.File(path, "a") as file:
        file.move("x", "z")

    info = inspect(path)

    assert (info.problem, info.grid) == ("heat", (32,))
    assert "z" in [one.name for one in info.datasets]


def test_a_column_of_numbers_is_a_number_for_each(tmp_path):
    values = np.random.default_rng(0).standard_normal((4, 5, 1, 32)).astype(np.float32)
    column = np.full((4, 1), 2.0)
    np.savez(tmp_path / "a.npz", u=values, t=np.arange(5.0), x=2.0 * np.arange(32), nu=column)

    assert load_fields([tmp_path / "a.npz"], EVOLVING["ks1d"]).parameters.tolist() == [[2.0]] * 4
