"""The number of CPU threads: measured once, kept by the run, changed only by a person, with a warning."""

import logging
import os

import pytest
import torch

from tasks.services.run.paths import RunDir
from tasks.services.run.status import StatusStore
from tasks.services.stages import threads
from tasks.services.stages.inputs import prepare_cuda
from tasks.services.stages.threads import settle_threads
from ups_models.config.schema import PipelineConfig
from ups_models.training.threads import fastest_threads, seconds_of_work

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def as_before():
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def store(tmp_path, smoke, own):
    return StatusStore(own(RunDir.of(tmp_path, smoke.checkpoint.dir)))


@pytest.fixture
def measured(monkeypatch):
    """A machine of two threads of which one is faster; the numbers that were asked about."""
    asked = []

    def fastest(most):
        asked.append(most)
        return 1

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "fastest_threads", fastest)
    monkeypatch.setattr(threads, "cores", lambda: 2)
    torch.set_num_threads(2)
    return asked


def config(n_threads: int = 0) -> PipelineConfig:
    return PipelineConfig.model_validate({"runtime": {"threads": n_threads}})


@pytest.mark.parametrize(
    ("one", "both", "chosen"), [(1.0, 0.6, 2), (1.0, 0.95, 1), (1.0, 20.0, 1)], ids=["faster", "alike", "collapsed"]
)
def test_more_threads_are_taken_only_where_they_pay(one, both, chosen):
    assert fastest_threads(2, lambda n_threads: {1: one, 2: both}[n_threads]) == chosen


def test_a_burst_of_slowness_counts():
    rounds = iter([0.5, 0.5, 0.5, 0.5, 9.0])

    assert fastest_threads(2, lambda n_threads: 1.0 if n_threads == 1 else next(rounds)) == 1


def test_measuring_leaves_the_number_of_threads_as_it_was():
    torch.set_num_threads(2)

    assert seconds_of_work(1) > 0
    assert torch.get_num_threads() == 2


def test_the_first_start_measures_and_the_run_keeps_what_it_found(store, measured):
    settle_threads(config(), store, CPU)
    assert (torch.get_num_threads(), store.read().threads, measured) == (1, 1, [2])
    torch.set_num_threads(2)

    settle_threads(config(), store, CPU)

    assert torch.get_num_threads() == 1
    assert measured == [2]


def test_a_run_that_was_begun_before_the_number_was_kept_has_that_of_pytorch(store, measured):
    store.start("operator", fresh=True, total_epochs=1, arch={}, config_hash="", seed=0, inputs={})

    settle_threads(config(), store, CPU)

    assert (torch.get_num_threads(), store.read().threads, measured) == (2, 2, [])


def test_the_environment_is_obeyed_and_not_measured(store, measured, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")

    settle_threads(config(), store, CPU)

    assert (store.read().threads, measured) == (2, [])


def test_a_person_changes_the_number_and_is_told_that_the_bits_change(store, measured, caplog):
    settle_threads(config(2), store, CPU)
    assert not caplog.records

    with caplog.at_level(logging.WARNING):
        settle_threads(config(1), store, CPU)

    assert (torch.get_num_threads(), store.read().threads) == (1, 1)
    assert "has had 2 CPU threads so far, and has 1 from now on: it goes on, but not to the same bits" in caplog.text


def test_a_machine_with_fewer_cores_measures_again(store, measured, monkeypatch, caplog):
    store.record_threads(8)

    settle_threads(config(), store, CPU)

    assert (store.read().threads, measured) == (1, [2])
    assert "has had 8 CPU threads so far, but this machine has 2 cores" in caplog.text


def test_several_processes_share_the_cores(store, measured, caplog):
    settle_threads(config(), store, CPU, n_processes=2)
    assert (store.read().threads, measured) == (1, [])

    settle_threads(config(2), store, CPU, n_processes=2)

    assert "2 processes of 2 CPU threads each on 2 cores are slow; fewer processes give the same bits" in caplog.text


def test_kernels_that_repeat_their_bits_are_chosen_on_a_gpu(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "as it was")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    try:
        prepare_cuda(tf32=False)

        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_gpu_needs_no_number(store, measured):
    settle_threads(config(), store, torch.device("cuda"))

    assert store.read().threads is None
