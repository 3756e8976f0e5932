"""stage_status.json: what is valid, what is refused, and which steps a stage may take."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.services.run.lock import owned
from tasks.services.run.paths import RunDir
from tasks.services.run.status import LEGAL, STATES, IllegalTransition, StatusError, StatusStore, parse_status
from ups_models.files import FileDigest
from ups_models.stages.spec import SPECS

GUIDE = """{
  "schema_version": 1,
  "created_at": "2025-10-28T12:00:00Z",
  "stages": {
    "operator": {
      "status": "completed",
      "checkpoint": "operator_ema.pt",
      "completed_at": "2025-10-28T12:15:00Z"
    },
    "diff_residual": {
      "status": "in_progress",
      "started_at": "2025-10-28T12:16:00Z",
      "epoch": 3,
      "total_epochs": 8
    }
  }
}
"""
DIGEST = FileDigest("0" * 64, 7)


@pytest.fixture
def store(tmp_path, own):
    return StatusStore(own(RunDir.of(tmp_path, Path())))


def start(store, stage="operator", config_hash="a"):
    store.start(stage, total_epochs=3, arch={"latent_dim": 8}, config_hash=config_hash, seed=0, inputs={}, fresh=False)


def complete(store, stage="operator"):
    store.complete(stage, checkpoint="operator_ema.pt", files={"operator_ema.pt": DIGEST}, step=9, seconds=1)


def test_the_example_of_the_guide_is_valid_byte_for_byte(store):
    store.path.write_text(GUIDE, encoding="utf-8")

    status = store.read()

    assert status.stage("operator").checkpoint == "operator_ema.pt"
    assert status.stage("diff_residual").epoch == 3
    assert status.stage("steady_prior").status == "not_started"


def test_a_missing_file_is_an_empty_status_and_is_not_created(store):
    assert store.read().stages == {}
    assert not store.path.exists()


def test_keys_of_a_later_version_survive_a_write(store):
    raw = json.loads(GUIDE)
    raw["mood"] = "good"
    raw["stages"]["operator"]["colour"] = "blue"
    store.path.write_text(json.dumps(raw), encoding="utf-8")

    start(store, "steady_prior")

    written = json.loads(store.path.read_text("utf-8"))
    assert written["mood"] == "good"
    assert written["stages"]["operator"] == raw["stages"]["operator"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", r"status\.json:1: invalid JSON"),
        (GUIDE[:200], r"status\.json:\d+: invalid JSON"),
        ("\ufeff" + GUIDE, "invalid JSON"),
        ("[]", "holds a list"),
        ("{}", "schema_version is None"),
        (GUIDE.replace('"schema_version": 1', '"schema_version": 2'), r"status\.json:2: schema_version is 2"),
        (GUIDE.replace('"schema_version": 1', '"schema_version": true'), "schema_version is True"),
        (GUIDE.replace("diff_residual", "diffusion"), r"status\.json:10: unknown stage 'diffusion'; valid: operator, "),
        (GUIDE.replace("in_progress", "running"), r"status\.json:11: .*valid: not_started, in_progress"),
        (GUIDE.replace('"epoch": 3', '"epoch": "many"'), r"status\.json:13: stages\.diff_residual\.epoch"),
        (GUIDE.replace('"epoch": 3', '"epoch": -1'), r"stages\.diff_residual\.epoch"),
        (GUIDE.replace('"epoch": 3', '"epoch": NaN'), "NaN is no JSON number"),
        (GUIDE.replace('"epoch": 3', '"epoch": 3, "epoch": 4'), "key 'epoch' is given twice"),
        (GUIDE.replace('"stages": {', '"evaluations": {"tiny_eval": {}}, "stages": {'), "unknown evaluation"),
    ],
)
def test_a_file_that_is_not_valid_is_refused_with_file_line_and_valid_values(tmp_path, text, expected):
    with pytest.raises(StatusError, match=expected):
        parse_status(text, tmp_path / "stage_status.json")


def test_a_stage_goes_from_start_over_progress_to_completion(store):
    start(store)
    store.progress("operator", epoch=2, step=5, seconds=1)

    between = store.read().stage("operator")
    complete(store)
    after = store.read().stage("operator")

    assert (between.status, between.epoch, between.step, between.attempts) == ("in_progress", 2, 5, 1)
    assert (after.status, after.epoch, after.step) == ("completed", 3, 9)
    assert after.files is not None
    assert after.files["operator_ema.pt"].digest == DIGEST
    assert after.completed_at is not None
    assert after.completed_at.endswith("Z")


def test_an_old_error_stays_visible_until_the_stage_completes(store):
    start(store)
    store.fail("operator", "the loss is nan")

    start(store)
    between = store.read().stage("operator")
    complete(store)

    assert between.status == "in_progress"
    assert between.attempts == 2
    assert between.error_message == "the loss is nan"
    assert store.read().stage("operator").error_message is None


def test_training_is_complete_without_the_optional_stage(store):
    for name, spec in SPECS.items():
        if not spec.optional:
            start(store, name)
            complete(store, name)

    assert store.read().is_trained()
    assert store.read().stage("steady_prior").status == "not_started"


def test_a_stage_that_never_started_cannot_complete(store):
    with pytest.raises(IllegalTransition, match="cannot go from not_started to completed"):
        complete(store)

    assert not store.path.exists()


@given(steps=st.lists(st.sampled_from(["start", "progress", "complete", "fail"]), max_size=12))
def test_only_legal_steps_change_the_file(tmp_path_factory, steps):
    with owned(RunDir.of(tmp_path_factory.mktemp("status"), Path())) as run:
        walk(StatusStore(run), steps)


def walk(store, steps):
    actions = {
        "start": (lambda: start(store), "in_progress"),
        "progress": (lambda: store.progress("operator", epoch=1, step=1, seconds=1), "in_progress"),
        "complete": (lambda: complete(store), "completed"),
        "fail": (lambda: store.fail("operator", "broken"), "failed"),
    }
    for step in steps:
        before = store.read().stage("operator")
        act, target = actions[step]
        if target in LEGAL[before.status]:
            act()
            assert store.read().stage("operator").status == target
        else:
            with pytest.raises(IllegalTransition):
                act()
            assert store.read().stage("operator") == before


def test_every_state_leads_somewhere_and_only_to_states():
    assert set(LEGAL) == set(STATES)
    assert all(set(targets) <= set(STATES) and targets for targets in LEGAL.values())
