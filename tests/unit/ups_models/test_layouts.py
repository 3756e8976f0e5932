"""Files as PDEBench, The Well and NumPy write them: what is read, and what is refused."""

import h5py
import numpy as np
import pytest

from harness.data_files import random_fields, write_flow, write_groups, write_npz, write_the_well
from ups_models.data.inspect import inspect
from ups_models.data.layouts.reading import load_fields, problem_in
from ups_models.data.split import split_rows
from ups_models.errors import DataError
from ups_models.problems.registry import EVOLVING

OF_LAYOUT = {
    "diffusion_reaction2d": (write_groups, "2D_diff-react_NA_NA.h5", [0.001, 0.005, 0.005], 1.0),
    "compressible_ns2d": (write_flow, "2D_CFD_Rand_M0.1.hdf5", [0.01, 0.01, 0.1], 0.05),
    "gray_scott2d": (write_the_well, "gray_scott.hdf5", [0.04, 0.06], 10.0),
    "ks1d": (write_npz, "ks.npz", [1.0], 1.0),
}


@pytest.mark.parametrize("problem", OF_LAYOUT)
def test_a_file_is_read_with_its_fields_grid_times_and_parameters(problem, tmp_path):
    write, name, parameters, dt = OF_LAYOUT[problem]
    u = write(tmp_path / name)

    fields = load_fields([tmp_path / name], EVOLVING[problem])

    assert np.array_equal(fields.u.numpy(), u)
    assert fields.parameters[0].tolist() == pytest.approx(parameters)
    assert fields.dt == pytest.approx(dt)
    assert [len(axis) for axis in fields.axes] == list(u.shape[3:])


@pytest.mark.parametrize("problem", OF_LAYOUT)
def test_a_file_is_thinned_out_alike_in_every_layout(problem, tmp_path):
    write, name, _, _ = OF_LAYOUT[problem]
    u = write(tmp_path / name)

    fields = load_fields([tmp_path / name], EVOLVING[problem], stride=4, stride_t=5, limit=3)

    assert np.array_equal(fields.u.numpy(), u[:3, ::5, :, ::4] if problem == "ks1d" else u[:3, ::5, :, ::4, ::4])
    assert fields.row.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("problem", "says", "channels"),
    [
        ("diffusion_reaction2d", None, ("#0", "#1")),
        ("compressible_ns2d", "compressible_ns2d", ("density", "pressure", "Vx", "Vy")),
        ("gray_scott2d", None, ("A", "B", "velocity_x", "velocity_y")),
        ("ks1d", "ks1d", ("#0",)),
    ],
)
def test_inspection_tells_of_every_layout_what_it_says_and_nothing_more(problem, says, channels, tmp_path):
    write, name, _, dt = OF_LAYOUT[problem]
    u = write(tmp_path / name)

    info = inspect(tmp_path / name)

    assert (info.problem, info.channels, info.n_samples) == (says, channels, 4)
    assert (info.grid, info.n_duplicates) == (u.shape[3:], 0)
    assert info.dt == pytest.approx(dt)


def test_fields_that_the_problem_does_not_ask_for_are_left_out(tmp_path):
    write_the_well(tmp_path / "a.hdf5")

    assert load_fields([tmp_path / "a.hdf5"], EVOLVING["gray_scott2d"]).u.shape[2] == 2


def test_a_height_alone_is_a_problem_of_its_own(tmp_path):
    u = write_groups(
        tmp_path / "2D_rdb.h5", random_fields(3, 4, 1, (16, 16)), "sim: {gravity: 1.0, dam_radius: 0.4}", 2.5
    )

    fields = load_fields([tmp_path / "2D_rdb.h5"], EVOLVING["dam_break2d"])

    assert np.array_equal(fields.u.numpy(), u)
    assert fields.parameters.tolist() == [[1.0]] * 3
    with pytest.raises(DataError, match=r"has shape .*, but shallow_water2d needs \(N, T, 3, x, y\)"):
        load_fields([tmp_path / "2D_rdb.h5"], EVOLVING["shallow_water2d"])


def test_parameters_that_no_file_names_can_be_said(tmp_path):
    path = tmp_path / "2D_rdb.h5"
    write_groups(path, random_fields(3, 4, 1, (16, 16)), "sim: {}", 2.5)

    with pytest.raises(DataError, match=r"attribute 'g' is missing.* say it in the config: data.parameters: \{g: 1\}"):
        load_fields([path], EVOLVING["dam_break2d"])

    assert load_fields([path], EVOLVING["dam_break2d"], said={"g": 2.0}).parameters.tolist() == [[2.0]] * 3


def test_reaction_diffusion_is_not_taken_for_burgers_because_nu_stands_in_its_name(tmp_path):
    path = tmp_path / "ReacDiff_Nu0.5_Rho1.0.hdf5"
    with h5py.File(path, "w") as file:
        file["tensor"] = random_fields(3, 4, 1, (16,))[:, :, 0]
        file["x-coordinate"], file["t-coordinate"] = (np.arange(16) + 0.5) / 16, np.arange(5.0)

    assert problem_in(path) == "reaction_diffusion1d"
    with pytest.raises(DataError, match="holds reaction_diffusion1d, not burgers1d"):
        load_fields([path], EVOLVING["burgers1d"])
    assert load_fields([path], EVOLVING["reaction_diffusion1d"]).parameters[0].tolist() == [0.5, 1.0]


def test_walls_are_not_taken_for_a_periodic_boundary(tmp_path):
    write_the_well(tmp_path / "a.hdf5", boundary="WALL")

    with pytest.raises(DataError, match="its axes are not periodic and not periodic, but those of gray_scott2d are"):
        load_fields([tmp_path / "a.hdf5"], EVOLVING["gray_scott2d"])


def test_a_flow_that_leaves_is_not_taken_for_a_periodic_one(tmp_path):
    write_flow(tmp_path / "2D_CFD_Shock_trans.hdf5")

    with pytest.raises(DataError, match="its axes are not periodic and not periodic, but those of compressible_ns2d"):
        load_fields([tmp_path / "2D_CFD_Shock_trans.hdf5"], EVOLVING["compressible_ns2d"])


def duplicate(u):
    u[2] = u[0]


def constant(u):
    u[1] = 3.0


def not_a_number(u):
    u[3, 2, 0, 5] = np.nan


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (duplicate, "holds row 0 again as row 2"),
        (constant, "is constant in row 1"),
        (not_a_number, "has NaN or Inf, first in row 3"),
    ],
)
def test_rows_that_nothing_can_be_learned_from_are_refused(spoil, message, tmp_path):
    u = random_fields(4, 6, 1, (32,))
    spoil(u)
    write_npz(tmp_path / "a.npz", u)

    with pytest.raises(DataError, match=rf"a\.npz: dataset 'u' {message}"):
        load_fields([tmp_path / "a.npz"], EVOLVING["ks1d"])


def test_rows_that_repeat_others_lie_on_the_same_side_of_a_split_where_that_is_asked(tmp_path):
    u = random_fields(6, 6, 1, (32,))
    u[4] = u[0]
    u[5] = u[2]
    write_npz(tmp_path / "a.npz", u)

    found = load_fields([tmp_path / "a.npz"], EVOLVING["ks1d"], repeats="together")

    assert found.row.tolist() == [0, 1, 2, 3, 0, 2]
    assert split_rows(found.row, val=1, test=1).test.tolist() == [True, False, False, False, True, False]


def objects(path):
    np.savez(path, u=np.array([{}], dtype=object), t=np.arange(3.0), x=np.arange(4.0))


def truncated(path):
    write_npz(path)
    path.write_bytes(path.read_bytes()[:-200])


def no_fields(path):
    np.savez(path, v=np.zeros(3))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (objects, "array 'u' holds Python objects"),
        (truncated, "no .npz that can be read"),
        (no_fields, "dataset 'u' is missing; the file has .'v'."),
        (lambda path: write_npz(path, x=np.arange(32.0) ** 2), "dataset 'x' has shape .* at equal distances"),
        (lambda path: write_npz(path, nu=None), "attribute 'nu' is missing"),
        (lambda path: write_npz(path, problem="wave"), "its attribute 'problem' is 'wave'"),
    ],
)
def test_what_is_wrong_with_an_npz_is_one_line(write, message, tmp_path):
    write(tmp_path / "a.npz")

    with pytest.raises(DataError, match=rf"a\.npz: {message}") as caught:
        load_fields([tmp_path / "a.npz"], EVOLVING["ks1d"])

    assert "\n" not in str(caught.value)


def test_a_file_of_no_known_layout_is_told_what_to_write(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = np.zeros(3)

    with pytest.raises(DataError, match=r"a\.h5: is of no known layout; the file has \['data'\]. Write u \(N, T, C"):
        problem_in(tmp_path / "a.h5")
