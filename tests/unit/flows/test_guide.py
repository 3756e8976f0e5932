"""The scenarios of the checkpoint-and-resume guide that need no W&B, no Vast and no signal."""

import json
import logging
from pathlib import Path

import pytest

from tasks.services.run.paths import RunDir
from ups_models.errors import TrainingDiverged

SMOKE = ["--config", "configs/smoke.yaml"]
FILES = [
    *("operator.pt", "operator_ema.pt", "diffusion_residual.pt", "diffusion_residual_ema.pt"),
    *("consistency_distill.pt", "consistency_distill_ema.pt", "steady_prior.pt", "steady_prior_ema.pt"),
]


@pytest.fixture(autouse=True)
def _facts_are_logged(caplog):
    caplog.set_level(logging.INFO)


def status_of(run_dir):
    return json.loads((run_dir / "checkpoints" / "stage_status.json").read_text("utf-8"))


def change_status(run_dir, change):
    path = run_dir / "checkpoints" / "stage_status.json"
    status = status_of(run_dir)
    change(status)
    path.write_text(json.dumps(status), encoding="utf-8")


def weights_of(run_dir):
    return {name: (run_dir / "checkpoints" / name).read_bytes() for name in FILES}


def test_one_command_trains_evaluates_and_reports(finished_run):
    reports = finished_run / "reports"

    status = status_of(finished_run)

    assert {record["status"] for record in status["stages"].values()} == {"completed"}
    assert {record["status"] for record in status["evaluations"].values()} == {"completed"}
    assert all((finished_run / "checkpoints" / name).is_file() for name in FILES)
    for name in ("small_eval.json", "small_eval.md", "full_eval.json", "full_eval.md", "report.html", "metrics.jsonl"):
        assert (reports / name).stat().st_size > 0
    assert not list(finished_run.rglob("*tmp~"))
    assert not list((finished_run / "checkpoints" / "resume").glob("*"))


def test_a_completed_pipeline_run_again_skips_everything(run_dir, train, caplog):
    before, report = weights_of(run_dir), (run_dir / "reports" / "report.html").read_bytes()

    path = train(auto_resume=True)

    assert caplog.text.count(": skip: completed at") == 6
    assert weights_of(run_dir) == before
    assert (run_dir / "reports" / "report.html").read_bytes() == report
    assert str(path) == "reports/report.html"


def test_scenario_1_a_run_that_died_after_the_operator_goes_on_with_the_next_stage(run_dir, train, caplog):
    before = weights_of(run_dir)

    def only_the_operator(status):
        status["stages"] = {"operator": status["stages"]["operator"]}
        del status["evaluations"]

    change_status(run_dir, only_the_operator)
    for name in FILES[2:]:
        (run_dir / "checkpoints" / name).unlink()

    train(stage="all", auto_resume=True)

    assert "operator: skip" in caplog.text
    assert "diff_residual: train: not started yet" in caplog.text
    assert weights_of(run_dir) == before


def test_scenario_3_the_status_table_shows_stages_evaluations_and_files(run_dir, ups):
    wandb = {"id": "train-20251028_120000", "name": "jolly-mountain-42", "project": "sim", "entity": "emgun"}

    def fail_the_prior(status):
        status["stages"]["steady_prior"] = {"status": "failed", "error_message": "the loss is nan at step 7"}
        del status["evaluations"]["full_eval"]
        status["wandb"] = wandb

    change_status(run_dir, fail_the_prior)
    (run_dir / "checkpoints" / "steady_prior.pt").unlink()

    shown = ups("status", "checkpoints/")

    assert shown.returncode == 0, shown.stderr
    assert "TRAINING PIPELINE STATUS" in shown.stdout
    assert "✅ completed    operator_ema.pt" in shown.stdout
    assert "❌ failed       N/A" in shown.stdout
    assert "the loss is nan at step 7" in shown.stdout
    assert "Training Complete:        ✅ Yes" in shown.stdout
    assert "Full Eval:                ❌ Not run" in shown.stdout
    assert "train-20251028_120000" in shown.stdout
    assert "emgun/sim" in shown.stdout
    assert "❌ steady_prior.pt                (not found)" in shown.stdout


def test_scenario_3_the_status_is_there_for_machines_too(run_dir, ups):
    shown = json.loads(ups("status", "checkpoints/", "--json").stdout)

    assert shown["training_complete"] is True
    assert list(shown["stages"]) == ["operator", "diff_residual", "consistency_distill", "steady_prior"]
    assert set(shown["evaluations"]) == {"small_eval", "full_eval"}


def test_scenario_3_a_run_that_has_just_begun_shows_that_nothing_has_started(here, ups, own):
    own(RunDir.of(here, Path("checkpoints")))

    shown = ups("status")

    assert shown.returncode == 0
    assert shown.stdout.count("not_started") == 4


def test_scenario_4a_checkpoints_are_evaluated_on_their_own(run_dir, ups):
    done = ups(
        *("evaluate", "--operator", "checkpoints/operator_ema.pt"),
        *("--diffusion", "checkpoints/diffusion_residual_ema.pt", *SMOKE),
        *("--device", "cpu", "--output-prefix", "reports/my_eval"),
    )

    assert done.returncode == 0, done.stderr
    figures = json.loads((run_dir / "reports" / "my_eval.json").read_text("utf-8"))
    whole = json.loads((run_dir / "reports" / "full_eval.json").read_text("utf-8"))
    assert figures["rollout"]["summary"] == whole["rollout"]["summary"]
    assert "diffusion" in figures["probabilistic"]
    assert (run_dir / "reports" / "my_eval.html").stat().st_size > 0
    assert "Report: reports/my_eval.html" in done.stdout


def test_scenario_4a_any_file_in_the_pdebench_layout_can_be_evaluated_on(run_dir, ups):
    made = ups(
        *("data", "generate", "burgers1d", "--n", "3", "--nu", "0.1", "--nx", "64", "--nt", "11", "--t-end", "0.5"),
        *("--seed", "9", "--out", "unseen.hdf5"),
    )
    assert made.returncode == 0, made.stderr

    done = ups(
        *("evaluate", "--operator", "checkpoints/operator_ema.pt", *SMOKE, "--data", "unseen.hdf5"),
        *("--output-prefix", "reports/unseen"),
    )

    assert done.returncode == 0, done.stderr
    assert json.loads((run_dir / "reports" / "unseen.json").read_text("utf-8"))["trajectories"] == 3


def untimed(result):
    return {**result, "created_at": "", "network": {**result["network"], "seconds": 0.0}}


def test_scenario_4b_evaluation_runs_without_training(run_dir, train):
    before = weights_of(run_dir)
    first = (run_dir / "reports" / "full_eval.json").read_text("utf-8")

    train(
        skip_training=True,
        redo_full_eval=True,
        small_eval_config="configs/small_eval.yaml",
        full_eval_config="configs/full_eval.yaml",
    )

    assert weights_of(run_dir) == before
    again = json.loads((run_dir / "reports" / "full_eval.json").read_text("utf-8"))
    assert untimed(again) == untimed(json.loads(first))


def test_scenario_4b_the_flags_of_the_guide_name_the_three_configs(here, ups):
    names = ("--train-config", "--small-eval-config", "--full-eval-config")

    refused = [ups("train", *SMOKE, "--skip-training", name, f"{name[2:]}.yaml") for name in names]

    assert [done.returncode for done in refused] == [2, 2, 2]
    for name, done in zip(names, refused, strict=True):
        assert f"{name[2:]}.yaml: no such config file" in done.stderr


def test_a_damaged_checkpoint_is_trained_again_with_everything_that_depends_on_it(run_dir, train, caplog):
    before = weights_of(run_dir)
    path = run_dir / "checkpoints" / "diffusion_residual_ema.pt"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(bytes(damaged))

    train(auto_resume=True)

    assert "diffusion_residual_ema.pt is not what was saved" in caplog.text
    assert "operator: skip" in caplog.text
    assert "consistency_distill: train: diff_residual, which it depends on, runs again" in caplog.text
    assert "steady_prior: skip" in caplog.text
    assert weights_of(run_dir) == before


def test_a_hand_written_status_without_digests_is_accepted_once_the_files_are_checked(run_dir, train, caplog):
    stages = {
        "operator": {"status": "completed", "checkpoint": "operator_ema.pt", "completed_at": "2025-10-28T12:15:00Z"},
        "diff_residual": {"status": "completed", "checkpoint": "diffusion_residual_ema.pt"},
    }
    written = {"schema_version": 1, "created_at": "2025-10-28T12:00:00Z", "stages": stages}
    (run_dir / "checkpoints" / "stage_status.json").write_text(json.dumps(written), encoding="utf-8")
    for name in FILES[4:]:
        (run_dir / "checkpoints" / name).unlink()

    train(auto_resume=True, skip_full_eval=True)

    assert "operator: adopt" in caplog.text
    assert "sha256" in status_of(run_dir)["stages"]["operator"]["files"]["operator_ema.pt"]
    assert status_of(run_dir)["stages"]["consistency_distill"]["status"] == "completed"


def test_epochs_zero_disables_a_stage_without_holding_up_the_rest(here, train, ups):
    off = ("stages.steady_prior.epochs=0", "stages.consistency_distill.epochs=0")

    train(set=off, skip_full_eval=True)

    shown = ups("status").stdout
    assert [line.split()[:3] for line in shown.splitlines() if "disabled" in line] == [
        ["consistency_distill", "⏸️", "disabled"],
        ["steady_prior", "⏸️", "disabled"],
    ]
    assert "Training Complete:        ✅ Yes" in shown
    assert set(status_of(here)["stages"]) == {"operator", "diff_residual"}


def test_force_train_replaces_what_is_there_and_a_change_of_epochs_is_told(run_dir, train, caplog):
    before = weights_of(run_dir)
    longer = {"set": ("stages.steady_prior.epochs=3",), "skip_small_eval": True, "skip_full_eval": True}

    train(**longer, auto_resume=True)
    told, kept = caplog.text, weights_of(run_dir)
    train(**longer, force_train=True, stage="steady_prior")

    assert "completed under other settings" in told
    assert "--force-train" in told
    assert kept == before
    changed = {name for name, content in weights_of(run_dir).items() if content != before[name]}
    assert changed == {"steady_prior.pt", "steady_prior_ema.pt"}


def test_training_that_diverges_is_recorded_and_named_in_one_line(here, train):
    with pytest.raises(TrainingDiverged, match=r"operator: .*stages\.operator\.lr") as error:
        train(set=("stages.operator.lr=1", "stages.operator.grad_clip=1e30"))

    assert "\n" not in str(error.value)
    assert error.value.exit_code == 1
    record = status_of(here)["stages"]["operator"]
    assert record["status"] == "failed"
    assert "not touched" in record["error_message"]
