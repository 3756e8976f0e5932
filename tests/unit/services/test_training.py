"""Training in a run directory: signals, records, and what is left behind."""

import contextlib
import json
import os
import shutil
import signal
import time
from types import SimpleNamespace

import pytest

from tasks.services.run.history import History
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from tasks.services.run.uninterrupted import leave_if_stopped
from tasks.services.stages import training
from tasks.services.stages.torchrun import train_together
from ups_models.errors import Preempted, StorageError, TrainingDiverged


@pytest.fixture
def run(tmp_path, smoke, own):
    return own(RunDir.of(tmp_path, smoke.checkpoint.dir))


class Caught(BaseException):
    """What the handler that was there before us raises."""


@pytest.fixture
def outer_handler():
    def handle(number, frame):
        raise Caught(number)

    previous = signal.signal(signal.SIGTERM, handle)
    yield
    signal.signal(signal.SIGTERM, previous)


def stop_at(monkeypatch, step):
    """SIGTERM arrives while this step is reported, as it would from outside."""
    append = History.append

    def append_and_stop(self, stage, row):
        append(self, stage, row)
        if row["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)
            wait_until_asked_to_stop()

    monkeypatch.setattr(History, "append", append_and_stop)


def wait_until_asked_to_stop():
    """The main thread hears of a signal when it has its turn."""
    deadline = time.monotonic() + 10
    with contextlib.suppress(Preempted):
        while time.monotonic() < deadline:
            leave_if_stopped("the step")
            time.sleep(0.001)


@pytest.mark.usefixtures("outer_handler")
def test_a_signal_saves_the_step_and_then_reaches_the_handler_that_was_there_before(run, smoke, monkeypatch):
    stop_at(monkeypatch, 7)

    with pytest.raises(Caught):
        training.train_stage_files("operator", smoke, run, fresh=True)

    record = read_status(run.status).stage("operator")
    assert record.status == "in_progress"
    assert record.step == 7
    assert run.resume("operator").is_file()


@pytest.mark.usefixtures("outer_handler")
def test_a_signal_in_the_last_step_completes_the_stage_and_is_not_lost(run, smoke, monkeypatch):
    stop_at(monkeypatch, smoke.stages.operator.total_steps)

    with pytest.raises(Caught):
        training.train_stage_files("operator", smoke, run, fresh=True)

    assert read_status(run.status).stage("operator").status == "completed"
    assert not run.resume("operator").exists()


def test_a_signal_that_nobody_handles_ends_as_preempted(run, smoke, monkeypatch):
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stop_at(monkeypatch, 7)

    try:
        with pytest.raises(Preempted, match="--auto-resume"):
            training.train_stage_files("operator", smoke, run, fresh=True)
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_an_error_is_recorded_before_it_travels_on(run, smoke, monkeypatch):
    def diverge(*arguments, **options):
        raise TrainingDiverged("operator: the loss is nan at step 3")

    monkeypatch.setattr(training, "train_together", diverge)

    with pytest.raises(TrainingDiverged):
        training.train_stage_files("operator", smoke, run, fresh=True)

    record = read_status(run.status).stage("operator")
    assert (record.status, record.error_message) == ("failed", "operator: the loss is nan at step 3")


def test_a_stage_trained_again_from_nothing_forgets_its_old_losses(run, smoke):
    history = History(run)
    history.append("operator", {"step": 29, "loss": 123.0})
    history.append("steady_prior", {"step": 1, "loss": 7.0})

    training.train_stage_files("operator", smoke, run, fresh=True)

    rows = history.read()
    assert 123.0 not in [row["loss"] for row in rows["operator"]]
    assert rows["steady_prior"] == [{"step": 1, "loss": 7.0}]


def test_half_a_line_of_a_killed_writer_costs_no_other_line(run):
    history = History(run)
    history.append("operator", {"step": 1, "loss": 1.0})
    with history.path.open("a", encoding="utf-8") as file:
        file.write('{"stage": "oper')

    history.append("operator", {"step": 2, "loss": 2.0})

    assert [row["step"] for row in history.read()["operator"]] == [1, 2]


def test_a_record_names_its_owner_while_it_trains_and_no_longer(run, smoke, monkeypatch):
    owners = []

    def look(*arguments, **options):
        owners.append(read_status(run.status).stage("operator").owner)
        return train_together(*arguments, **options)

    monkeypatch.setattr(training, "train_together", look)

    training.train_stage_files("operator", smoke, run, fresh=True)

    assert owners[0] is not None
    assert owners[0].pid == os.getpid()
    assert read_status(run.status).stage("operator").owner is None


def test_an_adopted_stage_is_recorded_with_its_architecture(run, smoke):
    training.train_stage_files("operator", smoke, run, fresh=True)
    minimal = {
        "schema_version": 1,
        "created_at": "2025-10-28T12:00:00Z",
        "stages": {"operator": {"status": "completed"}},
    }
    run.status.write_text(json.dumps(minimal), encoding="utf-8")

    training.adopt_stage_files("operator", smoke, run)

    record = read_status(run.status).stage("operator")
    assert record.arch is not None
    assert record.arch["latent_dim"] == smoke.latent.dim
    assert set(record.files or {}) == {"operator.pt", "operator_ema.pt"}


def test_a_disk_without_room_is_named_before_the_stage_starts(run, smoke, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=1_000))

    with pytest.raises(StorageError, match=r"checkpoints: stage operator will write .* GB; the disk has 1e-06 GB"):
        training.train_stage_files("operator", smoke, run, fresh=True)

    assert read_status(run.status).stage("operator").status == "not_started"
