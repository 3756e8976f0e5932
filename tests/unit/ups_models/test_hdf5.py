"""HDF5 files from anywhere: those that read other files, or hold less than they claim, are refused at once."""

import os
import resource

import h5py
import numpy as np
import pytest

from ups_models.data.inspect import inspect
from ups_models.data.layouts.hdf5 import require_memory
from ups_models.data.layouts.reading import load_fields
from ups_models.errors import DataError
from ups_models.problems.registry import BURGERS

HUGE = (10**6, 10**4, 100)


@pytest.fixture
def path(tmp_path):
    """A data file without its tensor."""
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file.attrs["Nu"] = 0.1
        file["x-coordinate"] = (np.arange(16, dtype=np.float32) + 0.5) / 16
        file["t-coordinate"] = np.arange(6, dtype=np.float32)
    return path


def virtual(file):
    layout = h5py.VirtualLayout((6, 5, 16), "f4")
    layout[:] = h5py.VirtualSource("missing.hdf5", "tensor", (6, 5, 16))
    file.create_virtual_dataset("tensor", layout)


LEADS_ELSEWHERE = {
    "'tensor' is a link to another file": lambda file: file.__setitem__(
        "tensor", h5py.ExternalLink("other.hdf5", "tensor")
    ),
    "'a/b' is a link to another file": lambda file: file.create_group("a").__setitem__(
        "b", h5py.ExternalLink("other.hdf5", "tensor")
    ),
    "dataset 'tensor' is virtual": virtual,
    r"keeps its values in other files \(external storage\)": lambda file: file.create_dataset(
        "tensor", (6, 5, 16), "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
    ),
}


@pytest.mark.parametrize("said", LEADS_ELSEWHERE)
def test_a_data_file_that_reads_another_file_is_refused_with_the_remedy(path, said):
    with h5py.File(path, "a") as file:
        LEADS_ELSEWHERE[said](file)

    with pytest.raises(DataError, match=rf"a\.hdf5: .*{said}.*h5repack"):
        load_fields([path], BURGERS)
    with pytest.raises(DataError, match="h5repack"):
        inspect(path)


@pytest.mark.parametrize(
    "layout", [{}, {"chunks": (1, 100, 100)}, {"chunks": (1, 100, 100), "compression": "gzip"}], ids=str
)
def test_a_small_file_that_claims_terabytes_is_refused_before_anything_grows(path, layout):
    with h5py.File(path, "a") as file:
        file.create_dataset("tensor", HUGE, "f4", **layout)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(DataError, match="dataset 'tensor' claims 4,000,000,000,000 bytes, but the file holds 0 of it"):
        load_fields([path], BURGERS)

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_chunk_that_was_never_written_is_no_data(path):
    with h5py.File(path, "a") as file:
        tensor = file.create_dataset("tensor", (6, 5, 16), "f4", chunks=(1, 5, 16), compression="gzip")
        tensor[:5] = 1.0

    with pytest.raises(DataError, match="dataset 'tensor' claims"):
        load_fields([path], BURGERS)


def test_compressed_data_are_read_as_before(path):
    values = np.random.default_rng(0).random((6, 5, 16), dtype=np.float32)
    with h5py.File(path, "a") as file:
        file.create_dataset("tensor", data=values, chunks=(2, 5, 16), compression="gzip")

    assert np.array_equal(load_fields([path], BURGERS).u[:, :, 0], values)


def test_links_in_a_circle_are_refused(path):
    with h5py.File(path, "a") as file:
        file["tensor"], file["other"] = h5py.SoftLink("/other"), h5py.SoftLink("/tensor")

    with pytest.raises(DataError, match="too many links"):
        load_fields([path], BURGERS)


def test_a_pipe_is_no_data_file(tmp_path):
    os.mkfifo(tmp_path / "a.hdf5")

    with pytest.raises(DataError, match="is a named pipe, not a regular file"):
        inspect(tmp_path / "a.hdf5")


def test_more_than_the_memory_of_this_machine_is_refused_by_its_size(path):
    with pytest.raises(DataError, match="needs 4,000,000 GB of memory"):
        require_memory(path, "tensor", 4 * 10**15)
