"""Fixtures that several modules of the science share: small data files of our own solvers."""

from pathlib import Path

import pytest

from ups_models.data.generate import generate


@pytest.fixture(scope="session")
def burgers_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("burgers") / "burgers.hdf5"
    generate("burgers1d", path, n=6, seed=3, parameter=0.1, nx=32, solver_nx=64, nt=5, t_end=0.4)
    return path


@pytest.fixture(scope="session")
def darcy_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("darcy") / "darcy.hdf5"
    generate("darcy2d", path, n=4, seed=3, parameter=10.0, nx=16)
    return path
