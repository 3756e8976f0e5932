"""Faults in the middle of a stage, in this process: what is recorded, and with what the stage goes on."""

import dataclasses
import shutil

import pytest
import torch

from tasks.services.run.history import History
from tasks.services.run.lock import owned
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from tasks.services.stages.training import train_stage_files
from ups_models.errors import RunLost, StorageError
from ups_models.stages.lineage import read_lineage
from ups_models.stages.registry import STAGES
from ups_models.training.checkpoint import load_payload, save_payload


@pytest.fixture
def run(tmp_path, smoke):
    return RunDir.of(tmp_path / "run", smoke.checkpoint.dir)


@pytest.fixture
def eager(smoke):
    """The smoke config, saving every five steps."""
    return smoke.model_copy(update={"checkpoint": smoke.checkpoint.model_copy(update={"save_every_steps": 5})})


@pytest.fixture
def at_step(monkeypatch):
    """Let something happen while this step is noted."""

    def at(step, act):
        append = History.append

        def act_and_append(self, stage, row):
            if row["step"] == step:
                act()
            append(self, stage, row)

        monkeypatch.setattr(History, "append", act_and_append)

    return at


@pytest.mark.parametrize("what", ["lock", "directory"])
def test_a_run_that_was_taken_away_is_not_written_again(run, eager, at_step, what):
    at_step(1, lambda: run.lock.unlink() if what == "lock" else shutil.rmtree(run.root))

    with owned(run) as own, pytest.raises((RunLost, StorageError, FileNotFoundError)):
        train_stage_files("operator", eager, own, fresh=True)

    assert run.root.exists() == (what == "lock")
    if what == "lock":
        assert read_status(run.status).stage("operator").step == 0


def test_out_of_memory_in_a_step_is_recorded_and_the_stage_goes_on_later(run, eager, monkeypatch):
    stage = STAGES["operator"]
    calls = []

    def hungry(cfg):
        loss = stage.loss(cfg)

        def run_out(step):
            calls.append(step)
            if len(calls) == 8:
                raise torch.OutOfMemoryError("tried to allocate 80 GiB")
            return loss(step)

        return run_out

    with monkeypatch.context() as patched:
        patched.setitem(STAGES, "operator", dataclasses.replace(stage, loss=hungry))
        with owned(run) as own, pytest.raises(torch.OutOfMemoryError):
            train_stage_files("operator", eager, own, fresh=True)
    failed = read_status(run.status).stage("operator")

    with owned(run) as own:
        train_stage_files("operator", eager, own, fresh=False)

    assert failed.status == "failed"
    assert failed.step == 5
    assert "80 GiB" in (failed.error_message or "")
    assert read_status(run.status).stage("operator").status == "completed"


class Stopped(Exception):
    """What ends a stage in the middle."""


def stop():
    raise Stopped


@pytest.mark.parametrize("name", ["threads", "torch", "machine"])
def test_a_resume_elsewhere_is_told_and_not_refused(run, eager, at_step, monkeypatch, caplog, name):
    at_step(8, stop)
    with owned(run) as own, pytest.raises(Stopped):
        train_stage_files("operator", eager, own, fresh=True)
    monkeypatch.undo()
    state = load_payload(run.resume("operator"))
    lineage = read_lineage(run.resume("operator"))
    assert lineage is not None
    save_payload(run.resume("operator"), {**state, "exactness": {**state["exactness"], name: "another"}}, lineage)

    with owned(run) as own:
        train_stage_files("operator", eager, own, fresh=False)

    assert f"{name} was another when the state was saved" in caplog.text
    assert read_status(run.status).stage("operator").status == "completed"
