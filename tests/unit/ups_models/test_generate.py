"""Data of our own: what is written, and which requests are refused."""

import errno
import math

import h5py
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ups_models.data import chunks
from ups_models.data.generate import generate
from ups_models.data.layouts.reading import load_fields
from ups_models.data.sizes import cost_of, require_room
from ups_models.errors import DataError, StorageError, UPSError
from ups_models.problems.initial import random_waves
from ups_models.problems.registry import ADVECTION, BURGERS, PROBLEMS
from ups_models.problems.solving import SolverFailed

GIVEN = {"burgers1d": {"Nu": 0.1}, "advection1d": {"beta": 0.1}, "darcy2d": {"beta": 0.1}}


def test_burgers_file_has_the_layout_of_pdebench(burgers_path):
    with h5py.File(burgers_path) as file:
        layout = {name: (dataset.shape, str(dataset.dtype)) for name, dataset in file.items()}
        attrs = dict(file.attrs)
        x, t = file["x-coordinate"][:], file["t-coordinate"][:]

    assert layout == {
        "tensor": ((6, 5, 32), "float32"),
        "x-coordinate": ((32,), "float32"),
        "t-coordinate": ((6,), "float32"),
    }
    assert attrs == {"Nu": 0.1, "seed": 3, "generator": "ups-pipeline", "t_end": 0.4}
    assert_close(x, ((np.arange(32) + 0.5) / 32).astype(np.float32), rtol=0, atol=1e-7)
    assert_close(t, (np.arange(6) * 0.1).astype(np.float32), rtol=0, atol=1e-7)


def test_darcy_file_has_the_layout_of_pdebench(darcy_path):
    with h5py.File(darcy_path) as file:
        layout = {name: (dataset.shape, str(dataset.dtype)) for name, dataset in file.items()}
        attrs = dict(file.attrs)

    assert layout == {
        "nu": ((4, 16, 16), "float32"),
        "tensor": ((4, 1, 16, 16), "float32"),
        "x-coordinate": ((16,), "float32"),
        "y-coordinate": ((16,), "float32"),
    }
    assert attrs == {"beta": 10.0, "seed": 3, "generator": "ups-pipeline"}


def test_a_solution_that_is_not_finite_is_named_and_no_file_is_left(tmp_path):
    own = tmp_path / "blows_up.py"
    own.write_text(
        "import torch\n"
        "from ups_models import Axis, Problem, Sampling, Solver\n"
        "def initial(n, points, parameters, rng):\n"
        "    return torch.tensor([child.random() for child in rng.spawn(n)]).view(n, 1, 1).expand(n, 1, *points)\n"
        "def solve(u0, parameters, times, on_progress=None):\n"
        "    return torch.stack([u0 if time == 0 else torch.where(u0 < 0.05, torch.inf, u0) for time in times], 1)\n"
        "P = Problem('blows_up', ('u',), (), (Axis('x'),), Sampling(8, nt=3, t_end=1.0), Solver(initial, solve))\n"
    )

    with pytest.raises(SolverFailed, match=r"blows_up\.py:P: the solution of sample 18 is not finite"):
        generate(f"{own}:P", tmp_path / "data.h5", n=40, seed=0, parameters={}, nx=8, nt=3, t_end=1.0)

    assert list(tmp_path.glob("data*")) == []


@pytest.mark.parametrize("solver_nx", [32, 64, 96, 128])
def test_stored_points_are_where_the_x_coordinate_says(tmp_path, solver_nx):
    path = tmp_path / "a.hdf5"
    wanted = random_waves(5, 32, np.random.default_rng(7))

    generate("advection1d", path, n=5, seed=7, parameters={"beta": 0.5}, nx=32, solver_nx=solver_nx, nt=3, t_end=2.0)
    read = load_fields([path], ADVECTION)

    assert_close(read.u[:, 0, 0], wanted.float(), rtol=0, atol=1e-6)
    assert_close(read.u[:, 2, 0], wanted.float(), rtol=0, atol=1e-5)  # once around


@pytest.mark.parametrize("family", ["burgers1d", "advection1d", "darcy2d"])
def test_a_sample_depends_on_seed_and_row_but_not_on_their_number(tmp_path, family, monkeypatch):
    few, many = tmp_path / "few.hdf5", tmp_path / "many.hdf5"
    parameters = dict.fromkeys(PROBLEMS[family].defaults, 0.5)
    generate(family, few, n=3, seed=5, parameters=parameters, nx=16, nt=3)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 2 * 8 * 3 * 32)  # two trajectories at a time

    generate(family, many, n=7, seed=5, parameters=parameters, nx=16, nt=3)

    with h5py.File(few) as short, h5py.File(many) as long:
        assert_close(long["tensor"][:3], short["tensor"][:], rtol=0, atol=1e-7)


def test_files_of_two_viscosities_share_their_initial_conditions(tmp_path):
    paths = [tmp_path / "Nu0.1.hdf5", tmp_path / "Nu1.0.hdf5"]
    for path, nu in zip(paths, (0.1, 1.0), strict=True):
        generate("burgers1d", path, n=3, seed=5, parameters={"Nu": nu}, nx=32, nt=3)

    both = load_fields(paths, BURGERS)

    assert torch.equal(both.u[:3, 0], both.u[3:, 0])
    assert both.row.tolist() == [0, 1, 2, 0, 1, 2]
    assert_close(both.parameters[:, 0], torch.tensor([0.1] * 3 + [1.0] * 3))


def test_generation_reports_progress_up_to_n(tmp_path, monkeypatch):
    seen: list[int] = []
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 2 * 8 * 3 * 32)

    generate(
        "burgers1d", tmp_path / "a.hdf5", n=5, seed=0, parameters={"Nu": 1.0}, nx=16, nt=3, on_progress=seen.append
    )

    assert seen == sorted(seen)
    assert seen[-1] == 5


def test_an_interrupted_generation_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.hdf5"
    path.write_bytes(b"old")

    def stop(n_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate("burgers1d", path, n=2, seed=0, parameters={"Nu": 1.0}, nx=16, nt=3, on_progress=stop)

    assert [entry.name for entry in tmp_path.iterdir()] == ["a.hdf5"]
    assert path.read_bytes() == b"old"


def test_generation_refuses_a_grid_that_does_not_resolve_the_shock_and_leaves_nothing(tmp_path):
    with pytest.raises(SolverFailed, match=r"do not resolve nu=0\.001"):
        generate("burgers1d", tmp_path / "a.hdf5", n=4, seed=0, parameters={"Nu": 0.001}, nx=64, solver_nx=64)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("family", "wrong", "message"),
    [
        ("wave1d", {}, "no problem is called 'wave1d'"),
        ("burgers1d", {"n": 0}, "cannot generate n=0"),
        ("burgers1d", {"nt": 1}, "cannot generate .*nt=1"),
        ("burgers1d", {"t_end": 0.0}, "t_end=0"),
        ("burgers1d", {"solver_nx": 24}, "solver_nx=24"),
        ("darcy2d", {"solver_nx": 32}, "solver_nx=32"),
        ("burgers1d", {"parameters": {"Nu": 0.0}}, "Nu=0 is not possible for burgers1d; use a value above 0"),
        ("advection1d", {"parameters": {"beta": math.nan}}, "beta=nan is not possible"),
        ("advection1d", {"parameters": {}}, "the value of beta is missing"),
        ("burgers1d", {"parameters": {"Nu": 0.1, "mu": 1.0}}, "burgers1d has no parameter mu; its parameters: Nu"),
    ],
)
def test_an_impossible_request_is_refused(tmp_path, family, wrong, message):
    with pytest.raises(DataError, match=rf"a\.hdf5: .*{message}"):
        generate(
            family, tmp_path / "a.hdf5", **({"n": 2, "seed": 0, "parameters": GIVEN.get(family, {}), "nx": 16} | wrong)
        )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "full"), r"a\.hdf5: could not be written \(No space left on device\).*free some space"),
        (OSError("write failed: errno = 5, ..."), r"a\.hdf5: .*\(Input/output error\).*the disk may be failing"),
        (OSError(errno.EMFILE, "many"), r"a\.hdf5: .*raise the limit of open files"),
        (RuntimeError("unable to extend file, errno = 27, ..."), r"a\.hdf5: .*\(File too large\)"),
        (MemoryError(), r"a\.hdf5: the memory that is free is not enough"),
    ],
)
def test_what_the_system_refuses_names_the_file_and_what_to_do_and_leaves_nothing(tmp_path, error, said):
    def fail(_done):
        raise error

    with pytest.raises(StorageError, match=said):
        generate(
            "advection1d", tmp_path / "a.hdf5", n=2, seed=0, parameters={"beta": 0.5}, nx=16, nt=3, on_progress=fail
        )

    assert list(tmp_path.iterdir()) == []


def test_what_cannot_fit_the_disk_or_the_memory_is_refused_before_it_starts(tmp_path):
    with pytest.raises(DataError, match=r"a\.hdf5: needs 4.2e\+04 GB, and the disk has .* GB free"):
        generate("burgers1d", tmp_path / "a.hdf5", n=10**9, parameters={"Nu": 0.01}, seed=0, nx=256)
    with pytest.raises(DataError, match=r"a\.hdf5: one sample needs .* GB of memory"):
        generate("burgers1d", tmp_path / "a.hdf5", n=1, parameters={"Nu": 1e-12}, seed=0, nx=256)

    assert list(tmp_path.iterdir()) == []


def test_what_will_take_hours_is_said_before_it_starts(tmp_path, caplog):
    require_room(tmp_path / "a.hdf5", cost_of(PROBLEMS["burgers1d"], n=100, nx=64, points=512, nt=9, t_end=1.0))
    assert caplog.messages == []

    require_room(tmp_path / "a.hdf5", cost_of(PROBLEMS["burgers1d"], n=10_000, nx=64, points=4096, nt=9, t_end=2.0))

    assert len(caplog.messages) == 1
    assert "this will take about 0.023 GB and 7.6 h on one core" in caplog.messages[0]


OWN = """
import torch
from ups_models import Axis, Parameter, Problem, Sampling, Solver

def initial(n, points, parameters, rng):
    return torch.zeros(n, 1, *points)

def raises(u0, parameters, times, on_progress):
    return {}["nothing"]

def forgets_the_channel(u0, parameters, times, on_progress):
    return u0.expand(-1, len(times), -1)

def own(solve, pattern=""):
    solver = Solver(initial, solve)
    return Problem("own", ("u",), (Parameter("Nu", 1.0),), (Axis("x"),), Sampling(16), solver, pattern=pattern)

RAISES, FORGETS, PLACELESS = own(raises), own(forgets_the_channel), own(raises, "own.h5")
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("RAISES", r"own\.py:RAISES: raises KeyError at .*own\.py:9: 'nothing'"),
        ("FORGETS", r"FORGETS: solve returns an array of shape \(2, 3, 16\), expected \(2, 3, 1, 16\)"),
        ("PLACELESS", r"pattern 'own.h5' must have 2 places {}"),
    ],
)
def test_what_is_wrong_with_a_solver_of_ones_own_is_one_line(tmp_path, name, said):
    (tmp_path / "own.py").write_text(OWN)
    reference = f"{tmp_path / 'own.py'}:{name}"

    with pytest.raises(UPSError, match=said):
        generate(reference, tmp_path / "a.h5", n=2, seed=0, parameters={"Nu": 1.0}, nx=16, nt=3, t_end=1.0)

    assert not (tmp_path / "a.h5").exists()
