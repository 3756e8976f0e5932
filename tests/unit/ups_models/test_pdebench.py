"""Files in PDEBench's layout: what is read, what is seen in them, and what is refused."""

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ups_models.data import chunks
from ups_models.data.fields import Fields
from ups_models.data.inspect import inspect
from ups_models.data.layouts.pdebench import load_steady
from ups_models.data.layouts.reading import load_fields
from ups_models.errors import DataError
from ups_models.problems import burgers1d, darcy2d
from ups_models.problems.initial import random_waves
from ups_models.problems.registry import BURGERS, EVOLVING


def write_1d(path: Path, *, n=3, nt=11, nx=16, t_values=None, **attrs: float | str) -> Path:
    """A small file laid out like PDEBench's own: u = row + t + 10 x."""
    x = ((np.arange(nx) + 0.5) / nx).astype(np.float32)
    t = (np.arange(nt + 1) * 0.01).astype(np.float32)
    with h5py.File(path, "w") as file:
        file["tensor"] = (np.arange(n)[:, None, None] + t[None, :nt, None] + 10 * x).astype(np.float32)
        file["x-coordinate"] = x
        file["t-coordinate"] = t if t_values is None else t_values
        file.attrs.update(attrs)
    return path


def write_darcy(path: Path, *, n=3, size=8, **attrs: float | str) -> Path:
    with h5py.File(path, "w") as file:
        file["nu"] = np.ones((n, size, size), np.float32)
        file["tensor"] = np.arange(n * size * size, dtype=np.float32).reshape(n, 1, size, size)
        file["x-coordinate"] = file["y-coordinate"] = ((np.arange(size) + 0.5) / size).astype(np.float32)
        file.attrs.update(attrs)
    return path


def change(path: Path, name: str, values: np.ndarray | None) -> Path:
    with h5py.File(path, "a") as file:
        del file[name]
        if values is not None:
            file[name] = values
    return path


# Read


def test_generated_trajectories_come_back_as_they_were_solved(burgers_path):
    u0 = random_waves(6, 64, np.random.default_rng(3), offset=1.0)
    solved = burgers1d.solve(u0, 0.1, [0.0, 0.1, 0.2, 0.3, 0.4])[:, :, ::2]

    read = load_fields([burgers_path], BURGERS)

    assert_close(read.u[:, :, 0], solved.float(), rtol=0, atol=1e-6)
    assert read.problem.name == "burgers1d"
    assert {one.dtype for one in (read.u, *read.axes, read.t, read.parameters)} == {torch.float32}
    assert read.row.dtype == torch.int64
    assert read.t.shape == (5,)
    assert read.dt == pytest.approx(0.1)


def test_generated_steady_fields_come_back_as_they_were_solved(darcy_path):
    a = darcy2d.random_coefficients(4, 16, np.random.default_rng(3))

    read = load_steady([darcy_path, darcy_path])

    assert_close(read.a[:4], a.float(), rtol=0, atol=0)
    assert_close(read.u[4:], darcy2d.solve(a, 10.0).float(), rtol=1e-6, atol=0)
    assert read.beta.tolist() == [10.0] * 8
    assert read.row.tolist() == [0, 1, 2, 3] * 2


def test_a_file_of_pdebench_is_thinned_out_as_in_the_paper(tmp_path, monkeypatch):
    path = write_1d(tmp_path / "1D_Burgers_Sols_Nu0.01.hdf5", n=7, nt=201, nx=64, Nu=0.01)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 2 * 201 * 64 * 4)

    read = load_fields([path], BURGERS, stride=4, stride_t=5, limit=5)

    assert read.u.shape == (5, 41, 1, 16)
    x = read.axes[0]
    assert_close(read.u[:, :, 0], read.row[:, None, None] + read.t[None, :, None] + 10 * x, rtol=1e-6, atol=1e-6)
    assert read.dt == pytest.approx(0.05)
    assert float(x[0]) == pytest.approx(0.5 / 64)


def test_a_darcy_file_is_thinned_out(tmp_path):
    path = write_darcy(tmp_path / "d.hdf5", beta=1.0)

    read = load_steady([path], reduced_resolution=2, limit=2)

    assert read.a.shape == read.u.shape == (2, 4, 4)
    assert read.u[0, 1].tolist() == [16, 18, 20, 22]


@pytest.mark.parametrize(
    ("name", "family", "value"),
    [("1D_Burgers_Sols_Nu0.01.hdf5", "burgers1d", 0.01), ("1D_Advection_Sols_beta4.0.hdf5", "advection1d", 4.0)],
)
def test_a_missing_attribute_is_read_from_the_file_name(tmp_path, name, family, value):
    path = write_1d(tmp_path / name)

    read = load_fields([path], EVOLVING[family])

    assert read.parameters[:, 0].tolist() == pytest.approx([value] * 3)


def test_a_missing_darcy_attribute_is_read_from_the_file_name(tmp_path):
    path = write_darcy(tmp_path / "2D_DarcyFlow_beta0.01_Train.hdf5")

    assert load_steady([path]).beta.tolist() == pytest.approx([0.01] * 3)


def test_selection_takes_masks_and_indices(burgers_path, darcy_path):
    trajectories = load_fields([burgers_path], BURGERS)
    fields = load_steady([darcy_path])

    by_mask = trajectories.select(trajectories.row >= 4)
    by_index = fields.select(torch.tensor([2, 0]))

    assert by_mask.row.tolist() == [4, 5]
    assert torch.equal(by_mask.u, trajectories.u[4:])
    assert by_index.row.tolist() == [2, 0]
    assert torch.equal(by_index.a, fields.a[[2, 0]])


# Faults


def load(path: Path, **options) -> Fields:
    return load_fields([path], BURGERS, **options)


def test_a_missing_file_suggests_to_generate_it(tmp_path):
    with pytest.raises(DataError, match=r"b\.hdf5: no such file\. Create it with: ups data generate"):
        load(tmp_path / "b.hdf5")


def test_a_file_that_is_not_hdf5_is_refused(tmp_path):
    path = tmp_path / "b.hdf5"
    path.write_text("version https://git-lfs.github.com/spec/v1")

    with pytest.raises(DataError, match=r"b\.hdf5: not an HDF5 file"):
        load(path)


def test_a_truncated_file_is_refused(tmp_path):
    path = write_1d(tmp_path / "b.hdf5", Nu=0.1)
    path.write_bytes(path.read_bytes()[:-1000])

    with pytest.raises(DataError, match=r"b\.hdf5: truncated or damaged HDF5 file"):
        load(path)


@pytest.mark.parametrize("name", ["tensor", "x-coordinate", "t-coordinate"])
@pytest.mark.parametrize(
    ("values", "message"),
    [(None, "is missing"), (np.zeros((2, 3, 4, 5, 6), np.float32), "shape"), (np.zeros(0, np.float32), "shape")],
)
def test_a_missing_or_misshapen_dataset_is_named(tmp_path, name, values, message):
    path = change(write_1d(tmp_path / "b.hdf5", Nu=0.1), name, values)

    with pytest.raises(DataError, match=rf"b\.hdf5: dataset '{name}' .*{message}"):
        load(path)


@pytest.mark.parametrize("name", ["nu", "tensor", "x-coordinate", "y-coordinate"])
def test_a_missing_darcy_dataset_is_named(tmp_path, name):
    path = change(write_darcy(tmp_path / "d.hdf5", beta=1.0), name, None)

    with pytest.raises(DataError, match=rf"d\.hdf5: dataset '{name}' is missing"):
        load_steady([path])


def test_a_dataset_of_whole_numbers_is_refused(tmp_path):
    path = change(write_1d(tmp_path / "b.hdf5", Nu=0.1), "tensor", np.zeros((3, 11, 16), np.int32))

    with pytest.raises(DataError, match=r"b\.hdf5: dataset 'tensor' has type int32, expected float32"):
        load(path)


def test_coefficients_that_do_not_match_the_solutions_are_refused(tmp_path):
    path = change(write_darcy(tmp_path / "d.hdf5", beta=1.0), "nu", np.ones((2, 8, 8), np.float32))

    with pytest.raises(DataError, match=r"d\.hdf5: dataset 'nu' has shape \(2, 8, 8\)"):
        load_steady([path])


def test_files_of_another_family_are_refused(burgers_path, darcy_path, tmp_path):
    advection_path = write_1d(tmp_path / "a.hdf5", beta=1.0)

    with pytest.raises(DataError, match=r"a\.hdf5: holds advection1d, not burgers1d. Set data.problem: advection1d"):
        load(advection_path)
    with pytest.raises(DataError, match=r"burgers\.hdf5: .* those of burgers1d, not darcy2d"):
        load_steady([burgers_path])
    with pytest.raises(DataError, match=r"darcy\.hdf5: holds darcy2d, not burgers1d"):
        load_fields([darcy_path], BURGERS)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_first_trajectory_with_nan_or_inf_is_named(tmp_path, bad, monkeypatch):
    path = write_1d(tmp_path / "b.hdf5", n=9, Nu=0.1)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 2 * 11 * 16 * 4)
    with h5py.File(path, "a") as file:
        file["tensor"][5, 3, 2] = file["tensor"][7, 0, 0] = bad

    with pytest.raises(DataError, match=r"b\.hdf5: dataset 'tensor' has NaN or Inf, first in row 5"):
        load(path)


@pytest.mark.parametrize(("name", "size"), [("x-coordinate", 15), ("x-coordinate", 17), ("t-coordinate", 13)])
def test_coordinates_of_another_length_than_the_tensor_are_refused(tmp_path, name, size):
    path = change(write_1d(tmp_path / "b.hdf5", Nu=0.1), name, np.arange(size, dtype=np.float32))

    with pytest.raises(DataError, match=rf"b\.hdf5: dataset '{name}' has {size} values"):
        load(path)


@pytest.mark.parametrize("values", [np.zeros(16), -np.arange(16.0), np.arange(16.0) ** 2, np.full(16, np.nan)])
def test_coordinates_that_are_not_uniform_are_refused(tmp_path, values):
    path = change(write_1d(tmp_path / "b.hdf5", Nu=0.1), "x-coordinate", values.astype(np.float32))

    with pytest.raises(DataError, match=r"b\.hdf5: dataset 'x-coordinate' is not uniform and increasing"):
        load(path)


def test_files_of_two_grids_are_refused(tmp_path):
    first = write_1d(tmp_path / "a.hdf5", Nu=0.1)
    coarser = write_1d(tmp_path / "b.hdf5", nx=8, Nu=0.1)
    slower = write_1d(tmp_path / "c.hdf5", t_values=np.arange(12, dtype=np.float32), Nu=0.1)

    with pytest.raises(DataError, match=r"b\.hdf5: its x differs from that of .*a\.hdf5"):
        load_fields([first, coarser], BURGERS)
    with pytest.raises(DataError, match=r"c\.hdf5: its t differs from that of .*a\.hdf5"):
        load_fields([first, slower], BURGERS)


def test_darcy_files_of_two_grids_are_refused(tmp_path):
    paths = [write_darcy(tmp_path / "a.hdf5", beta=1.0), write_darcy(tmp_path / "b.hdf5", size=4, beta=1.0)]

    with pytest.raises(DataError, match=r"b\.hdf5: dataset 'tensor' has grid \(4, 4\)"):
        load_steady(paths)


@pytest.mark.parametrize("option", ["reduced_resolution", "reduced_resolution_t"])
@pytest.mark.parametrize("factor", [0, 3])
def test_a_reduction_that_does_not_divide_is_refused(tmp_path, option, factor):
    path = write_1d(tmp_path / "b.hdf5", Nu=0.1)

    name = {"reduced_resolution": "stride", "reduced_resolution_t": "stride_t"}[option]
    with pytest.raises(DataError, match=rf"b\.hdf5: {option}={factor} does not divide .* dataset 'tensor'"):
        load(path, **{name: factor})


def test_a_parameter_found_nowhere_is_refused(tmp_path):
    path = write_1d(tmp_path / "u.hdf5")

    with pytest.raises(DataError, match=r"u\.hdf5: attribute 'Nu' is missing. Set it .* data.parameters: {Nu: 0.01}"):
        load(path)
    with pytest.raises(DataError, match=r"u\.hdf5: dataset 'tensor' comes with no parameter, expected the attribute"):
        inspect(path)
    with pytest.raises(DataError, match=r"d\.hdf5: attribute 'beta' .* missing"):
        load_steady([write_darcy(tmp_path / "d.hdf5")])


def test_a_parameter_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"u\.hdf5: attribute 'Nu' is 'small', expected one number"):
        load(write_1d(tmp_path / "u.hdf5", Nu="small"))


def test_loading_nothing_is_refused(burgers_path):
    with pytest.raises(DataError, match=r"no data file given"):
        load_fields([], BURGERS)
    with pytest.raises(DataError, match=r"burgers\.hdf5: limit=0 leaves no row"):
        load(burgers_path, limit=0)


def test_every_message_is_one_line(tmp_path):
    path = write_1d(tmp_path / "b.hdf5", Nu=0.1)
    path.write_bytes(path.read_bytes()[:-1000])

    with pytest.raises(DataError) as caught:
        load(path)

    assert "\n" not in str(caught.value)


# Inspect


def test_inspection_tells_what_a_burgers_file_holds(burgers_path):
    info = inspect(burgers_path)

    tensor = info.datasets[0]
    u = load_fields([burgers_path], BURGERS).u
    assert (info.problem, info.parameters, info.n_samples, info.grid) == ("burgers1d", {"Nu": "0.1"}, 6, (32,))
    assert info.dt == pytest.approx(0.1)
    assert (info.n_nan, info.n_inf, info.n_duplicates) == (0, 0, 0)
    assert (tensor.name, tensor.shape, tensor.dtype) == ("tensor", (6, 5, 32), "float32")
    assert (tensor.min, tensor.max, tensor.mean) == pytest.approx((float(u.min()), float(u.max()), float(u.mean())))
    assert info.attrs["generator"] == "ups-pipeline"
    assert info.size_bytes == burgers_path.stat().st_size


def test_inspection_tells_what_a_darcy_file_holds(darcy_path):
    info = inspect(darcy_path)

    assert (info.problem, info.parameters, info.n_samples) == ("darcy2d", {"beta": "10"}, 4)
    assert (info.grid, info.dt) == ((16, 16), None)
    assert [dataset.name for dataset in info.datasets] == ["nu", "tensor", "x-coordinate", "y-coordinate"]
    assert (info.datasets[0].min, info.datasets[0].max) == pytest.approx((0.1, 1.0))


def test_inspection_counts_nan_inf_and_duplicates(tmp_path, monkeypatch):
    path = write_1d(tmp_path / "b.hdf5", n=6, Nu=0.1)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 2 * 11 * 16 * 4)
    with h5py.File(path, "a") as file:
        tensor = file["tensor"]
        tensor[4] = tensor[5] = tensor[0]
        tensor[1] = math.nan
        tensor[2, 0, :2] = -math.inf

    info = inspect(path)

    assert (info.n_nan, info.n_inf, info.n_duplicates) == (11 * 16, 2, 2)
    assert math.isfinite(info.datasets[0].mean)
