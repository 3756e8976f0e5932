"""Checkpoints, runs and published sets of the first edition: they load, resume, finish and restore.

The files were made once, with the first edition's own code, by tests/harness/bench/first_edition.py. That a resumed run
has the same weights on another machine is not promised; on one machine `make same-bits` shows it.
"""

import json
import shutil

import pytest
import torch

from flows.request import TrainRequest, resolve
from harness.bench.comparison import leaves
from harness.bench.first_edition import CONFIG, FOLDER, HALF_WAY, MACHINE, PUBLISHED, TENSORS, described
from tasks.services.checkpoint_sets import install_set, verify_set
from tasks.services.evaluation import evaluate_run, write_report
from tasks.services.execution import carry_out
from tasks.services.history import History
from tasks.services.planning import plan, plan_evaluation
from tasks.services.run_dir import owned
from tasks.services.status import StatusStore
from tasks.services.training import frozen_networks, load_stage, training_data
from ups_models.checkpoint import load_payload
from ups_models.specs import SPECS
from ups_models.stages import STAGES
from ups_models.train import load_state, start_state

KNOWN = json.loads(TENSORS.read_text("utf-8"))
CPU = torch.device("cpu")


def job_in(directory):
    """What `--config tests/data/first_edition.yaml --auto-resume` asks for in this directory."""
    return resolve(TrainRequest(config=CONFIG, run_dir=directory, auto_resume=True))


def planned(job):
    """What would be done to each stage."""
    return {decision.stage: decision.action for decision in plan(job.cfg, job.run, job.policy)}


def finish(job):
    """Everything that is due: stages, evaluations, report."""
    with owned(job.run):
        for decision in plan(job.cfg, job.run, job.policy):
            carry_out(decision, job.cfg, job.run)
        for name, settings in job.evaluations.items():
            if plan_evaluation(name, settings, job.cfg, job.run, redo=False).run:
                evaluate_run(name, job.cfg, settings, job.run)
        write_report(job.run)


def restore(folder, job):
    """Verify a published set and put it in place."""
    install_set(verify_set(folder, job.cfg, "first edition"), job.run, None)


def state_in(job, stage):
    """A stage's networks and optimiser as training begins with them: those of the saved state."""
    data, frozen = training_data(STAGES[stage], job.cfg, job.run), frozen_networks(STAGES[stage], job.cfg, job.run, CPU)
    state = start_state(STAGES[stage], job.cfg, data, frozen, CPU)
    load_state(job.run.resume(stage), state, STAGES[stage], job.cfg)
    return state


def status_of(job):
    return StatusStore(job.run.status).read()


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
    restore(tmp_path / "set", job)
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
def test_a_run_resumes_at_its_saved_step_and_finishes(request, run, stage, actions):
    job = request.getfixturevalue(run)
    history = job.run.reports / "metrics.jsonl"
    before, rows_before = status_of(job), history.read_text("utf-8")
    assert before.stage(stage).owner.host == MACHINE

    assert list(planned(job).values()) == actions
    finish(job)

    after, rows = status_of(job), history.read_text("utf-8")
    next_row = json.loads(rows.removeprefix(rows_before).splitlines()[0])
    assert rows.startswith(rows_before)
    assert (next_row["stage"], next_row["step"]) == (stage, before.stage(stage).step + 1)
    assert after.stage(stage).started_at == before.stage(stage).started_at
    assert [len(History(history).read()[name]) for name in SPECS] == [10, 40, 30, 10]
    assert all(after.stage(name).status == "completed" for name in SPECS)
    assert all(after.evaluation(name).status == "completed" for name in ("small_eval", "full_eval"))
    assert set(planned(job).values()) == {"skip"}
    for name, action in zip(SPECS, actions, strict=True):
        assert action != "skip" or after.stage(name).files == before.stage(name).files
