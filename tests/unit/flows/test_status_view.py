"""`ups status`: every line of the table, the same for machines, the digests, and the plan."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tasks.services.checkpoints.sets import signature_of
from tasks.services.run.lock import owned
from tasks.services.run.paths import RunDir
from tasks.services.run.status import Status

OPERATOR = {
    "status": "completed",
    "checkpoint": "operator_ema.pt",
    "completed_at": "2026-01-02T03:04:05Z",
    "files": {
        "operator.pt": {"sha256": hashlib.sha256(b"weights").hexdigest(), "bytes": 7},
        "operator_ema.pt": {"sha256": "0" * 64, "bytes": 7},
    },
}
RESIDUAL = {
    "status": "in_progress",
    "step": 40,
    "epoch": 2,
    "total_epochs": 9,
    "owner": {"pid": 12, "host": "node", "started_at": "2026-01-02T03:00:00Z"},
}
STATUS: dict[str, Any] = {
    "schema_version": 1,
    "created_at": "2026-01-01T00:00:00Z",
    "stages": {
        "operator": OPERATOR,
        "diff_residual": RESIDUAL,
        "consistency_distill": {"status": "failed", "error_message": "the loss is nan at step 7"},
    },
    "evaluations": {
        "small_eval": {"status": "completed", "completed_at": "2026-01-02T03:05:00Z"},
        "full_eval": {"status": "failed", "error_message": "the disk is full"},
    },
    "wandb": {"id": "train-1", "name": "jolly-mountain-42", "project": "sim", "entity": "me", "source": "me/sim/old"},
}
RULE, LINE = "=" * 80, "-" * 80
TABLE = f"""\
{RULE}
TRAINING PIPELINE STATUS
{RULE}
Checkpoint Directory: %s

Training Stages:
{LINE}
Stage                     Status          Checkpoint                Completed
{LINE}
operator                  ✅ completed    operator_ema.pt           2026-01-02 03:04:05 UTC
diff_residual             🔄 in_progress  N/A                       N/A
consistency_distill       ❌ failed       N/A                       N/A
steady_prior              ⏸️  not_started  N/A                       N/A
  diff_residual: saved at step 40, epoch 2 of 9; \
owned by process 12 on node, started 2026-01-02T03:00:00Z, dead: --auto-resume takes over
  consistency_distill: last error: the loss is nan at step 7

Pipeline Status:
{LINE}
Training Complete:        ❌ No
Small Eval:               ✅ 2026-01-02 03:05:00 UTC
Full Eval:                ❌ the disk is full

WandB Run:
{LINE}
Run ID:                   train-1
Run Name:                 jolly-mountain-42
Project:                  me/sim
URL:                      N/A
Restored from:            me/sim/old
Uploaded:                 ❌ nothing yet

Checkpoint Files:
{LINE}
  ✅ operator.pt                    (0.0 MB)
  ✅ operator_ema.pt                (0.0 MB)
  ❌ diffusion_residual.pt          (not found)
  ❌ diffusion_residual_ema.pt      (not found)
  ❌ consistency_distill.pt         (not found)
  ❌ consistency_distill_ema.pt     (not found)
  ✅ steady_prior.pt                (0.0 MB)
  ❌ steady_prior_ema.pt            (not found)
{RULE}
"""


@pytest.fixture
def checkpoints(tmp_path):
    """A folder with three files, and a status without anything that training would need."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("operator.pt", "operator_ema.pt", "steady_prior.pt"):
        (folder / name).write_bytes(b"weights")
    write(folder, {})
    return folder


def write(folder, more):
    (folder / "stage_status.json").write_text(json.dumps(STATUS | more), encoding="utf-8")


def test_the_table_is_what_the_guide_shows(checkpoints, ups, tmp_path):
    shown = ups("status", cwd=tmp_path)

    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == TABLE % checkpoints


@pytest.mark.usefixtures("checkpoints")
def test_the_process_that_is_alive_is_the_one_that_holds_the_run_whoever_trained_the_stage_before(ups, tmp_path):
    with owned(RunDir.of(tmp_path, Path("checkpoints"))):
        shown = ups("status", cwd=tmp_path)

    assert f"owned by process {os.getpid()} on " in shown.stdout
    assert ", alive" in shown.stdout
    assert "process 12 on node" not in shown.stdout


@pytest.mark.parametrize("folder", [(), ("nowhere",), ("nowhere/checkpoints",), (".",)])
def test_a_directory_without_a_run_is_refused_and_nothing_is_written(ups, tmp_path, folder):
    shown = ups("status", *folder, cwd=tmp_path)

    assert shown.returncode == 2
    assert f"{(*folder, '.')[0]}: holds no run" in shown.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", [(), (".",), ("checkpoints",), ("checkpoints/",)])
def test_a_run_is_named_by_its_folder_or_by_that_of_its_checkpoints(checkpoints, ups, tmp_path, folder):
    assert ups("status", *folder, cwd=tmp_path).stdout == TABLE % checkpoints


@pytest.mark.parametrize(
    ("upload", "expected"),
    [
        ({"version": "v3", "uploaded_at": "2026-01-02T03:06:00Z"}, "🔄 v3, 2026-01-02 03:06:00 UTC: older than"),
        ({"version": "v3", "signature": "same"}, "✅ v3: all of it"),
        ({"error_message": "no network"}, "❌ nothing yet; last error: no network"),
    ],
)
def test_an_upload_is_whole_or_older_and_says_its_last_error(upload, expected, checkpoints, ups, tmp_path):
    if "signature" in upload:
        upload = {**upload, "signature": signature_of(Status.model_validate(STATUS))}
    write(checkpoints, {"upload": upload})

    assert f"Uploaded:                 {expected}" in ups("status", cwd=tmp_path).stdout


@pytest.mark.usefixtures("checkpoints")
def test_verifying_compares_every_file_with_its_digest(ups, tmp_path):
    shown = ups("status", "--verify", cwd=tmp_path).stdout

    assert "  ✅ operator.pt                    (0.0 MB) digest good\n" in shown
    assert "  ❌ operator_ema.pt                (0.0 MB) digest differs: damaged or replaced\n" in shown
    assert "  ❔ steady_prior.pt                (0.0 MB) no digest recorded\n" in shown
    assert "  ❌ steady_prior_ema.pt            (not found)\n" in shown


def test_machines_get_every_stage_and_evaluation(checkpoints, ups, tmp_path):
    shown = json.loads(ups("status", "--json", cwd=tmp_path).stdout)

    assert shown["stages"] == {**STATUS["stages"], "steady_prior": {"status": "not_started"}}
    assert shown["evaluations"] == STATUS["evaluations"]
    assert (shown["training_complete"], shown["checkpoint_dir"]) == (False, str(checkpoints))


@pytest.mark.parametrize("folder", [("nowhere/checkpoints",), ()])
def test_the_plan_of_a_run_that_has_not_begun_is_to_do_everything(folder, ups, tmp_path):
    shown = ups("status", *folder, "--plan", "--config", "configs/smoke.yaml", cwd=tmp_path).stdout

    _, plan = shown.split("What --auto-resume would do:\n" + LINE + "\n")
    assert [line.split()[:2] for line in plan.splitlines()] == [
        ["operator", "train"],
        ["diff_residual", "train"],
        ["consistency_distill", "train"],
        ["steady_prior", "train"],
        ["small_eval", "run"],
        ["full_eval", "run"],
    ]


def test_a_time_of_another_form_is_shown_as_it_is(checkpoints, ups, tmp_path):
    write(checkpoints, {"evaluations": {"small_eval": {"status": "completed", "completed_at": "yesterday"}}})

    assert "Small Eval:               ✅ yesterday" in ups("status", cwd=tmp_path).stdout
