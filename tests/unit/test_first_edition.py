"""Checkpoints, runs and published sets of the first edition: they load, resume, finish and restore.

The files were made once, with the first edition's own code, by tests/harness/bench/first_edition.py. That a resumed run
has the same weights on another machine is not promised; on one machine `make same-bits` shows it.
"""

import json
import shutil

import pytest
import torch

from flows.dag import run_job
from flows.requests.job import parse, plan_of
from flows.requests.train import TrainRequest
from harness.bench.comparison import leaves
from harness.bench.first_edition import CONFIG, FOLDER, HALF_WAY, MACHINE, PUBLISHED, TENSORS, described
from tasks.services.checkpoints.sets import install_set, verify_set
from tasks.services.run.history import History
from tasks.services.run.lock import owned
from tasks.services.run.status import read_status
from tasks.services.stages.inputs import load_stage, training_data
from tasks.services.stages.snapshot import read_inputs
from ups_models.stages.lineage import Lineage
from ups_models.stages.registry import STAGES
from ups_models.stages.spec import SPECS
from ups_models.training.checkpoint import load_payload
from ups_models.training.state import load_state, start_state

KNOWN = json.loads(TENSORS.read_text("utf-8"))
CPU = torch.device("cpu")


def job_in(directory):
    """What `--config tests/data/first_edition.yaml --auto-resume` asks for in this directory."""
    return parse(TrainRequest(config=CONFIG, run_dir=directory, auto_resume=True))


def planned(job):
    """What would be done to each stage."""
    return {decision.stage: decision.action for decision in plan_of(job).stages}


def state_in(job, stage):
    """A stage's networks and optimiser as training begins with them: those of the saved state."""
    spec = STAGES[stage].spec
    frozen = {name: load_stage(name, job.cfg, job.run, CPU) for name in spec.needs}
    state = start_state(STAGES[stage], job.cfg, training_data(spec, job.cfg, job.run), frozen, CPU)
    inputs = read_inputs(spec, job.cfg, job.run)
    load_state(job.run.resume(stage), state, STAGES[stage], job.cfg, Lineage.of(spec, job.cfg, inputs))
    return state


def status_of(job):
    return read_status(job.run.status)


def tensors_in(value):
    return {name: described(item) for name, item in leaves(value) if isinstance(item, torch.Tensor)}


@pytest.fixture
def half_way(tmp_path):
    """The run that was interrupted in diff_residual."""
    shutil.copytree(HALF_WAY, tmp_path / "run")
    return job_in(tmp_path / "run")


@pytest.fixture
def restored(tmp_path):
    """A run that holds the published set, which was made in consistency_distill, and the data that it was made from.

    Another machine's solver may give those data other last bits, and then the stages would rightly start again.
    """
    shutil.copytree(PUBLISHED, tmp_path / "set")
    shutil.copytree(HALF_WAY / "data", tmp_path / "run" / "data")
    job = job_in(tmp_path / "run")
    with owned(job.run) as run:
        install_set(verify_set(tmp_path / "set", job.cfg, "first edition"), run, None)
    return job


def test_every_checkpoint_is_known():
    assert KNOWN.keys() == {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.pt")}
    assert all(KNOWN.values())


@pytest.mark.parametrize("name", KNOWN)
def test_every_tensor_of_a_file_is_read_as_it_was_written(name):
    assert tensors_in(load_payload(FOLDER / name)) == KNOWN[name]


@pytest.mark.parametrize("stage", ["operator", "diff_residual"])
def test_a_completed_stage_has_the_weights_of_its_file(restored, stage):
    network = load_stage(stage, restored.cfg, restored.run, CPU)

    assert tensors_in({"state_dict": network.state_dict()}) == KNOWN[f"published_set/{SPECS[stage].checkpoint}"]


@pytest.mark.parametrize(
    ("run", "stage", "folder"),
    [
        ("half_way", "diff_residual", "half_way/checkpoints"),
        ("restored", "consistency_distill", "published_set"),
    ],
)
def test_a_stage_resumes_with_the_networks_and_the_optimiser_of_its_saved_state(request, run, stage, folder):
    job = request.getfixturevalue(run)

    state = state_in(job, stage)

    found = {"state_dict": state.net.state_dict(), "ema": state.ema.state_dict()}
    assert tensors_in({**found, "optimiser": state.optimiser.state_dict()}) == KNOWN[f"{folder}/resume/{stage}.pt"]
    assert state.step == status_of(job).stage(stage).step


@pytest.mark.parametrize(
    ("run", "stage", "actions"),
    [
        ("half_way", "diff_residual", ["skip", "resume", "train", "train"]),
        ("restored", "consistency_distill", ["skip", "skip", "resume", "train"]),
    ],
)
def test_a_run_resumes_at_its_saved_step_and_finishes(request, monkeypatch, run, stage, actions):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    job = request.getfixturevalue(run)
    history = job.run.history
    before, rows_before = status_of(job), history.read_text("utf-8")
    assert before.stage(stage).owner.host == MACHINE

    assert list(planned(job).values()) == actions
    run_job(job)

    after, rows = status_of(job), history.read_text("utf-8")
    next_row = json.loads(rows.removeprefix(rows_before).splitlines()[0])
    assert rows.startswith(rows_before)
    assert (next_row["stage"], next_row["step"]) == (stage, before.stage(stage).step + 1)
    assert after.stage(stage).started_at == before.stage(stage).started_at
    assert [len(History(job.run).read()[name]) for name in SPECS] == [10, 40, 30, 10]
    assert all(after.stage(name).status == "completed" for name in SPECS)
    assert all(after.evaluation(name).status == "completed" for name in ("small_eval", "full_eval"))
    assert set(planned(job).values()) == {"skip"}
    for name, action in zip(SPECS, actions, strict=True):
        assert action != "skip" or after.stage(name).files == before.stage(name).files
