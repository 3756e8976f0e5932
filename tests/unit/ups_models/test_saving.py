"""Saving beside training: what is written is the state at the time of the save, whole, and an error is heard."""

import threading

import pytest
import torch

from ups_models.errors import StorageError
from ups_models.files import arm_crash_points
from ups_models.stages import operator
from ups_models.stages.lineage import Lineage
from ups_models.stages.spec import SPECS
from ups_models.training.checkpoint import load_payload
from ups_models.training.ema import ema_copy
from ups_models.training.optim import adamw
from ups_models.training.saving import Saver, copied
from ups_models.training.state import TrainState


@pytest.fixture
def state(smoke):
    net = operator.build(smoke)
    state = TrainState(net, ema_copy(net), adamw(net, smoke.stages.operator))
    _step(state)
    return state


@pytest.fixture
def saver(smoke, tmp_path):
    path = tmp_path / "operator.resume.pt"
    with Saver[int](path, Lineage.of(SPECS["operator"], smoke, {}), with_previous=True) as saver:
        yield saver


def _step(state):
    for parameter in state.net.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimiser.step()
    state.step += 1


@pytest.fixture
def slow_disk():
    """Nothing is put in place until the event is set."""
    go = threading.Event()

    def at(point, path):
        if point == "temporary written":
            go.wait(30)

    arm_crash_points(at)
    yield go
    go.set()
    arm_crash_points(None)


def test_what_is_written_is_the_state_at_the_save_whatever_training_does_meanwhile(state, saver, slow_disk):
    before = copied(state.net.state_dict())

    saver.save(state, 1)
    _step(state)
    assert saver.written() is None
    slow_disk.set()

    assert saver.written(wait=True) == 1
    saved = load_payload(saver.path)
    assert saved["step"] == 1
    assert all(torch.equal(saved["state_dict"][name], value) for name, value in before.items() if "." in name)
    assert not torch.equal(next(state.net.parameters()), next(iter(before.values())))
    assert saver.written() is None


def test_the_memory_of_a_copy_serves_the_next_one(state, saver):
    saver.save(state, 1)
    saver.written(wait=True)
    kept = {name: value.data_ptr() for name, value in saver.copy["state_dict"].items()}
    _step(state)

    saver.save(state, 2)
    saver.written(wait=True)

    assert {name: value.data_ptr() for name, value in saver.copy["state_dict"].items()} == kept
    assert load_payload(saver.path)["step"] == 2


def test_a_state_that_cannot_be_written_is_an_error_where_the_loop_stands(state, saver):
    saver.path.parent.joinpath("file").write_text("in the way")
    saver.path = saver.path.parent / "file" / "operator.resume.pt"

    saver.save(state, 1)

    with pytest.raises(StorageError, match="cannot be written"):
        saver.written(wait=True)


def test_the_end_of_the_block_waits_for_what_is_being_written_and_hears_of_it(state, saver, tmp_path):
    with Saver[int](tmp_path / "other.pt", saver.lineage, with_previous=False) as other:
        other.save(state, 1)
    assert load_payload(other.path)["step"] == 1

    (tmp_path / "file").touch()
    with pytest.raises(StorageError), Saver[int](tmp_path / "file" / "x.pt", saver.lineage, with_previous=False) as bad:
        bad.save(state, 1)
