"""The scenarios of the checkpoint-and-resume guide that need no W&B and no Vast, through the real command line."""

import json
import shutil

import pytest

SMOKE = ["--config", "configs/smoke.yaml"]
FILES = [
    *("operator.pt", "operator_ema.pt", "diffusion_residual.pt", "diffusion_residual_ema.pt"),
    *("consistency_distill.pt", "consistency_distill_ema.pt", "steady_prior.pt", "steady_prior_ema.pt"),
]


@pytest.fixture
def run_dir(tmp_path, finished_run):
    """A copy of a finished run."""
    shutil.copytree(finished_run, tmp_path, dirs_exist_ok=True)
    return tmp_path


def status_of(run_dir):
    return json.loads((run_dir / "checkpoints" / "stage_status.json").read_text("utf-8"))


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


def test_a_completed_pipeline_run_again_skips_everything(run_dir, pipeline):
    before, report = weights_of(run_dir), (run_dir / "reports" / "report.html").read_bytes()

    again = pipeline(*SMOKE, "--auto-resume", cwd=run_dir)

    assert again.returncode == 0, again.stderr
    assert again.stderr.count(": skip: completed at") == 4
    assert "Traceback" not in again.stderr
    assert weights_of(run_dir) == before
    assert (run_dir / "reports" / "report.html").read_bytes() == report
    assert "Training Complete:        ✅ Yes" in again.stdout
    assert "Report: reports/report.html" in again.stdout


def test_scenario_1_a_run_that_died_after_the_operator_goes_on_with_the_next_stage(run_dir, tmp_path, pipeline):
    before = weights_of(run_dir)
    path = run_dir / "checkpoints" / "stage_status.json"
    status = status_of(run_dir)
    status["stages"] = {"operator": status["stages"]["operator"]}
    del status["evaluations"]
    path.write_text(json.dumps(status), encoding="utf-8")
    for name in FILES[2:]:
        (run_dir / "checkpoints" / name).unlink()

    resumed = pipeline(*SMOKE, "--stage", "all", "--auto-resume", cwd=run_dir)

    assert resumed.returncode == 0, resumed.stderr
    assert "operator: skip" in resumed.stderr
    assert "diff_residual: train: not started yet" in resumed.stderr
    assert weights_of(run_dir) == before


def test_scenario_1_a_run_stopped_by_a_signal_exits_75_and_resumes_to_the_same_weights(
    tmp_path, pipeline, stopped_pipeline
):
    slow = ["--set", "stages.operator.steps_per_epoch=400"]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    straight.mkdir()
    stopped.mkdir()
    assert pipeline(*SMOKE, *slow, "--stage", "operator", cwd=straight).returncode == 0

    code, stderr = stopped_pipeline(*SMOKE, *slow, "--stage", "operator", cwd=stopped)
    interrupted = status_of(stopped)["stages"]["operator"]
    resumed = pipeline(*SMOKE, *slow, "--stage", "operator", "--auto-resume", cwd=stopped)

    assert code == 75, stderr
    assert "--auto-resume" in stderr
    assert interrupted["status"] == "in_progress"
    assert 0 < interrupted["step"] < 1200
    assert resumed.returncode == 0, resumed.stderr
    assert f"resume: in_progress at step {interrupted['step']}" in resumed.stderr
    for name in FILES[:2]:
        assert (stopped / "checkpoints" / name).read_bytes() == (straight / "checkpoints" / name).read_bytes()


def test_scenario_3_the_status_table_shows_stages_evaluations_and_files(run_dir, ups):
    path = run_dir / "checkpoints" / "stage_status.json"
    status = status_of(run_dir)
    status["stages"]["steady_prior"] = {"status": "failed", "error_message": "the loss is nan at step 7"}
    del status["evaluations"]["full_eval"]
    status["wandb"] = {"id": "train-20251028_120000", "name": "jolly-mountain-42", "project": "sim", "entity": "emgun"}
    path.write_text(json.dumps(status), encoding="utf-8")
    (run_dir / "checkpoints" / "steady_prior.pt").unlink()

    shown = ups("status", "checkpoints/", cwd=run_dir)

    assert shown.returncode == 0, shown.stderr
    assert "TRAINING PIPELINE STATUS" in shown.stdout
    assert "✅ completed    operator_ema.pt" in shown.stdout
    assert "❌ failed       N/A" in shown.stdout
    assert "the loss is nan at step 7" in shown.stdout
    assert "Full Eval:                ❌ Not run" in shown.stdout
    assert "train-20251028_120000" in shown.stdout
    assert "emgun/sim" in shown.stdout
    assert "❌ steady_prior.pt                (not found)" in shown.stdout


def test_scenario_3_the_status_is_there_for_machines_too(run_dir, ups):
    shown = json.loads(ups("status", "checkpoints/", "--json", cwd=run_dir).stdout)

    assert shown["training_complete"] is True
    assert list(shown["stages"]) == ["operator", "diff_residual", "consistency_distill", "steady_prior"]
    assert set(shown["evaluations"]) == {"small_eval", "full_eval"}


def test_scenario_3_a_directory_without_a_run_shows_that_nothing_has_started(tmp_path, ups):
    shown = ups("status", cwd=tmp_path)

    assert shown.returncode == 0
    assert shown.stdout.count("not_started") == 4


def test_scenario_4a_checkpoints_are_evaluated_on_their_own(run_dir, ups):
    done = ups(
        *("evaluate", "--operator", "checkpoints/operator_ema.pt"),
        *("--diffusion", "checkpoints/diffusion_residual_ema.pt", *SMOKE),
        *("--device", "cpu", "--output-prefix", "reports/my_eval"),
        cwd=run_dir,
    )

    assert done.returncode == 0, done.stderr
    result = json.loads((run_dir / "reports" / "my_eval.json").read_text("utf-8"))
    whole = json.loads((run_dir / "reports" / "full_eval.json").read_text("utf-8"))
    assert result["rollout"]["summary"] == whole["rollout"]["summary"]
    assert "diffusion" in result["probabilistic"]
    assert (run_dir / "reports" / "my_eval.html").stat().st_size > 0


def test_scenario_4a_any_file_in_the_pdebench_layout_can_be_evaluated_on(run_dir, ups):
    made = ups(
        *("data", "generate", "burgers1d", "--n", "3", "--nu", "0.1", "--nx", "64", "--nt", "11", "--t-end", "0.5"),
        *("--seed", "9", "--out", "unseen.hdf5"),
        cwd=run_dir,
    )
    assert made.returncode == 0, made.stderr

    done = ups(
        *("evaluate", "--operator", "checkpoints/operator_ema.pt", *SMOKE, "--data", "unseen.hdf5"),
        *("--output-prefix", "reports/unseen"),
        cwd=run_dir,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads((run_dir / "reports" / "unseen.json").read_text("utf-8"))["trajectories"] == 3


def test_scenario_4b_evaluation_runs_without_training(run_dir, pipeline):
    before = weights_of(run_dir)
    first = (run_dir / "reports" / "full_eval.json").read_text("utf-8")

    done = pipeline(
        *("--train-config", "configs/smoke.yaml", "--skip-training", "--redo-full-eval"),
        *("--small-eval-config", "configs/small_eval.yaml", "--full-eval-config", "configs/full_eval.yaml"),
        cwd=run_dir,
    )

    assert done.returncode == 0, done.stderr
    assert weights_of(run_dir) == before
    again = json.loads((run_dir / "reports" / "full_eval.json").read_text("utf-8"))
    assert {**again, "created_at": ""} == {**json.loads(first), "created_at": ""}


def test_a_damaged_checkpoint_is_trained_again_with_everything_that_depends_on_it(run_dir, pipeline):
    before = weights_of(run_dir)
    path = run_dir / "checkpoints" / "diffusion_residual_ema.pt"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(bytes(damaged))

    done = pipeline(*SMOKE, "--auto-resume", cwd=run_dir)

    assert done.returncode == 0, done.stderr
    assert "diffusion_residual_ema.pt is not what was saved" in done.stderr
    assert "operator: skip" in done.stderr
    assert "consistency_distill: train: diff_residual, which it depends on, runs again" in done.stderr
    assert "steady_prior: skip" in done.stderr
    assert weights_of(run_dir) == before


def test_a_hand_written_status_without_digests_is_accepted_once_the_files_are_checked(run_dir, pipeline):
    path = run_dir / "checkpoints" / "stage_status.json"
    stages = {
        "operator": {"status": "completed", "checkpoint": "operator_ema.pt", "completed_at": "2025-10-28T12:15:00Z"},
        "diff_residual": {"status": "completed", "checkpoint": "diffusion_residual_ema.pt"},
    }
    path.write_text(
        json.dumps({"schema_version": 1, "created_at": "2025-10-28T12:00:00Z", "stages": stages}), encoding="utf-8"
    )

    done = pipeline(*SMOKE, "--auto-resume", "--skip-full-eval", cwd=run_dir)

    assert done.returncode == 0, done.stderr
    assert "operator: adopt" in done.stderr
    assert "sha256" in status_of(run_dir)["stages"]["operator"]["files"]["operator_ema.pt"]
    assert status_of(run_dir)["stages"]["consistency_distill"]["status"] == "completed"


def test_epochs_zero_disables_a_stage_without_holding_up_the_rest(tmp_path, pipeline):
    done = pipeline(
        *SMOKE,
        *("--set", "stages.steady_prior.epochs=0", "--set", "stages.consistency_distill.epochs=0"),
        "--skip-full-eval",
        cwd=tmp_path,
    )

    assert done.returncode == 0, done.stderr
    assert "Training Complete:        ❌ No" in done.stdout
    assert set(status_of(tmp_path)["stages"]) == {"operator", "diff_residual"}


def test_force_train_replaces_what_is_there_and_a_change_of_epochs_is_told(run_dir, pipeline):
    before = weights_of(run_dir)
    longer = ["--set", "stages.steady_prior.epochs=3", "--skip-small-eval", "--skip-full-eval"]

    told = pipeline(*SMOKE, *longer, "--auto-resume", cwd=run_dir)
    kept = weights_of(run_dir)
    forced = pipeline(*SMOKE, *longer, "--force-train", "--stage", "steady_prior", cwd=run_dir)

    assert told.returncode == 0, told.stderr
    assert "completed under other settings" in told.stderr
    assert "--force-train" in told.stderr
    assert kept == before
    assert forced.returncode == 0, forced.stderr
    changed = {name for name, content in weights_of(run_dir).items() if content != before[name]}
    assert changed == {"steady_prior.pt", "steady_prior_ema.pt"}


def test_training_that_diverges_is_recorded_and_named_in_one_line(tmp_path, pipeline):
    done = pipeline(*SMOKE, "--set", "stages.operator.lr=1", "--set", "stages.operator.grad_clip=1e30", cwd=tmp_path)

    if done.returncode == 0:
        pytest.fail("a learning rate of 1 was expected to diverge")
    assert done.returncode == 1
    assert "stages.operator.lr" in done.stderr
    record = status_of(tmp_path)["stages"]["operator"]
    assert record["status"] == "failed"
    assert "not touched" in record["error_message"]
