"""Fields that are kept on the disk: the same batches, to the bit, without holding them in memory."""

import pytest
import torch

from harness.data_files import random_fields, write_npz
from ups_models.data.batches import window_batch
from ups_models.data.layouts.reading import load_fields
from ups_models.data.on_disk import OnDisk
from ups_models.errors import DataError, StorageError
from ups_models.problems.registry import EVOLVING
from ups_models.surrogate import load_surrogate

KS = EVOLVING["ks1d"]


@pytest.fixture
def both(tmp_path):
    """The same two files, in memory and on the disk."""
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for seed, path in enumerate(paths):
        write_npz(path, random_fields(5, 6, 1, (32,), seed))
    return load_fields(paths, KS), load_fields(paths, KS, in_memory=100)


def test_fields_on_the_disk_are_the_same_fields(both):
    here, there = both

    assert isinstance(there.stored, OnDisk)
    assert torch.equal(there.u, here.u)
    assert there.shape == here.shape == (10, 6, 1, 32)
    assert torch.equal(there.conditioning(), here.conditioning())


def test_batches_are_the_same_to_the_bit(both):
    batches = [window_batch(one, torch.Generator().manual_seed(3), size=7, length=3) for one in both]

    assert torch.equal(batches[0]["u"], batches[1]["u"])


@pytest.mark.parametrize("rows", [torch.tensor([7, 2]), torch.arange(10) % 3 == 0])
def test_rows_can_be_chosen_and_chosen_again(both, rows):
    here, there = both

    assert torch.equal(there.select(rows).u, here.select(rows).u)
    again = torch.tensor([1])
    assert torch.equal(there.select(rows).select(again).u, here.select(rows).select(again).u)


def test_a_small_file_beside_a_large_one_is_not_lost(tmp_path):
    paths = [tmp_path / "small.npz", tmp_path / "large.npz"]
    for number, (path, n) in enumerate(zip(paths, (2, 9), strict=True)):
        write_npz(path, random_fields(n, 6, 1, (32,), number))
    whole = load_fields(paths, KS)
    limit = 2 * 4 * 3 * 6 * 32  # of both together: the small one fits into its half

    for order in (paths, paths[::-1]):
        found = load_fields(order, KS, in_memory=limit)

        assert isinstance(found.stored, OnDisk)
        assert found.shape[0] == 11
        assert torch.equal(found.u.sum(), load_fields(order, KS).u.sum())
    assert torch.equal(load_fields(paths, KS, in_memory=limit).u, whole.u)


def test_nothing_is_left_in_the_folder(both, tmp_path):
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_what_cannot_be_learned_from_is_refused_there_too(tmp_path):
    u = random_fields(4, 6, 1, (32,))
    u[3] = u[0]
    write_npz(tmp_path / "a.npz", u)

    with pytest.raises(DataError, match="holds row 0 again as row 3"):
        load_fields([tmp_path / "a.npz"], KS, in_memory=0)


def test_a_full_disk_is_named(tmp_path):
    def pieces():
        yield torch.zeros(1, 2, 1, 4)
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"could not be kept here \(No space left on device\); free some space"):
        OnDisk.write(pieces(), tmp_path)


def test_a_run_trains_to_the_same_bits_from_the_disk(here, train):
    train(stage="operator", run_dir=here / "memory")
    train(stage="operator", run_dir=here / "disk", set=("data.in_memory_gb=0",))

    one, other = (load_surrogate(here / name).models.networks()["operator"].state_dict() for name in ("memory", "disk"))
    assert all(torch.equal(one[name], other[name]) for name in one)
