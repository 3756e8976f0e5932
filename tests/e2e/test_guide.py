"""The guide's first scenario as it is typed: train, be stopped, go on. The others: tests/unit/flows/test_guide.py."""

import json

SMOKE = ("--config", "configs/smoke.yaml")
FILES = [
    *("operator.pt", "operator_ema.pt", "diffusion_residual.pt", "diffusion_residual_ema.pt"),
    *("consistency_distill.pt", "consistency_distill_ema.pt", "steady_prior.pt", "steady_prior_ema.pt"),
]


def status_of(run_dir):
    return json.loads((run_dir / "checkpoints" / "stage_status.json").read_text("utf-8"))


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


def test_scenario_1_a_run_stopped_by_a_signal_exits_75_and_resumes_to_the_same_weights(
    tmp_path, pipeline, stopped_pipeline
):
    slow = ["--set", "stages.operator.steps_per_epoch=150"]
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
    assert 0 < interrupted["step"] < 450
    assert resumed.returncode == 0, resumed.stderr
    assert f"resume: in_progress at step {interrupted['step']}" in resumed.stderr
    for name in FILES[:2]:
        assert (stopped / "checkpoints" / name).read_bytes() == (straight / "checkpoints" / name).read_bytes()
