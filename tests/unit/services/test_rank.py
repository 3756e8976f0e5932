"""A rank trains what its channel says, reports to the owner of the run, and saves what one process alone would have."""

import pytest
import torch

from tasks.services.run.paths import RunDir
from tasks.services.stages import training
from tasks.services.stages.channel import DONE, SAVED, STARTED, STEPPED, Channel
from tasks.services.stages.rank import hooks_of, train
from tasks.services.stages.torchrun import dismiss, follow, has_own_gpu, require_shards
from ups_models.errors import BadInput, Preempted
from ups_models.training.checkpoint import load_payload


@pytest.fixture
def run(tmp_path, smoke, own):
    return own(RunDir.of(tmp_path / "run", smoke.checkpoint.dir))


@pytest.fixture
def channel(tmp_path, smoke, run):
    folder = tmp_path / "channel"
    folder.mkdir()
    channel = Channel(folder)
    channel.put_job("operator", smoke, run, torch.get_num_threads())
    return channel


def test_a_rank_trains_to_the_weights_of_one_process_alone(channel, run, smoke, own, tmp_path):
    alone = own(RunDir.of(tmp_path / "alone", smoke.checkpoint.dir))
    training.train_stage_files("operator", smoke, alone, fresh=True)

    train(channel, 0, 1, lambda: False)
    training.train_stage_files("operator", smoke, run, fresh=False)  # as the owner does: nothing is left to train

    events = [event["event"] for event in channel.listen(0).received()]
    assert (events[0], events[-1]) == (STARTED, DONE)
    assert events.count(STEPPED) == smoke.stages.operator.total_steps
    weights, expected = (load_payload(one.checkpoint("operator.pt"))["state_dict"] for one in (run, alone))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_rank_that_is_asked_to_stop_saves_first(channel, run):
    with pytest.raises(Preempted):
        train(channel, 0, 1, lambda: bool(channel.listen(0).received()))

    assert [event["event"] for event in channel.listen(0).received()].count(SAVED) == 1
    assert run.resume("operator").is_file()


def test_only_the_first_rank_reports(channel):
    hooks_of(channel, 1, lambda: True).on_start(3)
    hooks_of(channel, 0, lambda: True).on_start(3)

    assert channel.listen(1).received() == []
    assert channel.listen(0).received() == [{"event": STARTED, "step": 3}]


def test_more_processes_than_shards_are_refused(smoke, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(smoke.training.shards + 1))

    with pytest.raises(BadInput, match="a process computes whole shards; start fewer"):
        require_shards(smoke)


def test_without_a_torchrun_nobody_follows_and_nobody_is_dismissed(smoke, run):
    dismiss()

    with pytest.raises(BadInput, match="no torchrun has started this process"):
        follow(smoke, run)


def test_a_cpu_is_no_gpu_of_its_own():
    assert not has_own_gpu(torch.device("cpu"))
