"""`ups runs` and `ups config`: which runs there are, and what a config says."""

import json
import os
import shutil

import pytest
import yaml

from flows.cli.views.runs import age
from ups_models.config.loading import load_config
from ups_models.config.schema import PipelineConfig


def refused(done):
    assert done.returncode == 2, done.stdout
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture
def runs(here, finished_run):
    """A finished run, one that has just begun, and one whose status is damaged."""
    shutil.copytree(finished_run, here / "sweep" / "a")
    (here / "sweep" / "b" / "checkpoints").mkdir(parents=True)
    record = '{"schema_version": 1, "stages": {"operator": {"status": "in_progress", "step": 7}}}'
    (here / "sweep" / "b" / "checkpoints" / "stage_status.json").write_text(record, encoding="utf-8")
    (here / "c" / "checkpoints").mkdir(parents=True)
    (here / "c" / "checkpoints" / "stage_status.json").write_text("{", encoding="utf-8")
    return here


def test_runs_are_listed_with_state_error_and_age(runs, ups, smoke_result):
    os.utime(runs / "sweep" / "b" / "checkpoints" / "stage_status.json", (0, 0))

    done = ups("runs", cwd=runs)

    lines = [line.split() for line in done.stdout.splitlines()]
    error = f"{smoke_result.rollout.summary['operator'].mean:.4f}"
    assert done.returncode == 0, done.stderr
    assert lines[0] == ["run", "problem", "state", "error", "age"]
    assert lines[1][:4] == ["sweep/a", "burgers1d", "complete", error]
    assert lines[2][:7] == ["sweep/b", "-", "operator", "in", "progress", "at", "step"]
    assert lines[2][-1] == "d"
    assert len(lines) == 4


def line_of(ups, root):
    """What `ups runs` says of the one run in a folder."""
    return ups("runs", cwd=root).stdout.splitlines()[1]


def edit_status(root, change):
    path = root / "checkpoints" / "stage_status.json"
    status = json.loads(path.read_text("utf-8"))
    change(status)
    path.write_text(json.dumps(status), encoding="utf-8")


def test_an_evaluation_that_failed_is_the_state_of_a_run_and_the_error_is_called_that_of_the_small_one(run_dir, ups):
    edit_status(run_dir, lambda status: status["evaluations"]["full_eval"].update(status="failed"))

    line = line_of(ups, run_dir)

    assert "full_eval failed" in line
    assert "(small)" in line


def test_an_evaluation_that_cannot_be_read_is_to_be_made_again(run_dir, ups):
    (run_dir / "reports" / "full_eval.json").write_text("garbage", encoding="utf-8")

    assert "full_eval to be made again" in line_of(ups, run_dir)


def test_a_stage_without_epochs_is_disabled_wherever_a_run_is_shown(run_dir, ups):
    config = run_dir / "config.yaml"
    whole = yaml.safe_load(config.read_text("utf-8"))
    whole["stages"]["consistency_distill"]["epochs"] = 0
    config.write_text(config.read_text("utf-8").splitlines()[0] + "\n" + yaml.safe_dump(whole), encoding="utf-8")
    edit_status(run_dir, lambda status: status["stages"].pop("consistency_distill"))

    shown = ups("status", cwd=run_dir).stdout
    (line,) = (line for line in shown.splitlines() if line.startswith("consistency_distill"))

    assert "disabled" in line
    assert "✅ Yes" in shown
    assert json.loads(ups("status", "--json", cwd=run_dir).stdout)["training_complete"] is True
    assert "small_eval to be made again" in line_of(ups, run_dir)


def test_a_stage_that_is_to_be_trained_again_is_no_completed_training(run_dir, ups):
    edit_status(run_dir, lambda status: status["stages"]["consistency_distill"].update(retrain="its input runs again"))

    shown = ups("status", cwd=run_dir).stdout

    assert "consistency_distill: is to be trained again: its input runs again" in shown
    assert "❌ No" in shown
    assert "consistency_distill to be trained again" in line_of(ups, run_dir)


def test_a_run_is_listed_from_within_too(runs, ups):
    assert ups("runs", cwd=runs / "sweep" / "a").stdout.splitlines()[1].startswith(". ")


def test_where_no_run_lies_is_said(here, ups):
    assert ".: no run lies here or up to 3 folders below; begin one" in refused(ups("runs", cwd=here))


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0 s"), (61, "1 min"), (7300, "2 h"), (200_000, "2 d"), (-5, "0 s")]
)
def test_an_age_has_one_unit(seconds, shown):
    assert age(seconds) == shown


def test_a_config_is_shown_whole_and_is_read_again_as_the_same(here, ups):
    done = ups("config", "show", "configs/smoke.yaml", "--set", "latent.dim=8", cwd=here)
    (here / "shown.yaml").write_text(done.stdout, encoding="utf-8")

    assert yaml.safe_load(done.stdout)["data"]["problem"] == "burgers1d"
    assert load_config(here / "shown.yaml", schema=PipelineConfig).latent.dim == 8
    assert "are the same config" in ups("config", "diff", "shown.yaml", "shown.yaml", cwd=here).stdout
    difference = ups("config", "diff", "configs/smoke.yaml", "shown.yaml", cwd=here).stdout.splitlines()
    assert [line.split() for line in difference[1:]] == [["latent.dim", "4", "8"]]


def test_every_key_is_explained(here, ups):
    everything = ups("config", "docs", cwd=here).stdout
    some = ups("config", "docs", "stages.operator", cwd=here).stdout.splitlines()

    assert "latent.dim (default: 8), ≥ 1, ≤ 1024: Channels of each latent token." in everything
    assert "runtime.device (default: auto), auto | cpu | cuda: auto: CUDA where there is one." in everything
    assert all(line.startswith("stages.operator.") for line in some)
    assert any(line.startswith("stages.operator.initial_fraction ") for line in some)
    assert "trajectories (default: 16)" in ups("config", "docs", "--evaluation", cwd=here).stdout
    assert "no key of a config begins with 'nonsense'" in refused(ups("config", "docs", "nonsense", cwd=here))


@pytest.fixture
def seeds(here, finished_run):
    """The same run twice, as if by two seeds, and once with another latent."""
    for name, edit in (("s0", ("", "")), ("s1", ("seed: 0\\n", "seed: 1\\n")), ("wide", ("dim: 4\\n", "dim: 8\\n"))):
        shutil.copytree(finished_run, here / name)
        path = here / name / "reports" / "full_eval.json"
        path.write_text(path.read_text("utf-8").replace(*edit), encoding="utf-8")
    return here


def test_runs_are_compared_by_config_and_seeds_are_taken_together(seeds, ups, smoke_result):
    done = ups("compare", "s0", "s1/checkpoints", "wide", cwd=seeds)

    error = f"{smoke_result.rollout.summary['operator'].mean:.3g}"
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0].split() == ["s0", "and", "1", "more", "wide"]
    row = next(line for line in lines if line.startswith("Rollout nRMSE, mean, Operator"))
    assert row.split()[-4:] == [error, f"[{error},", f"{error}]", error]
    below = lines[lines.index("The configs differ in:") + 1 :]
    assert [line.split() for line in below] == [["latent.dim", "4", "8"]]


def test_one_sample_is_counted_once(seeds, ups):
    assert "more" not in ups("compare", "s0", "./s0", "s0/checkpoints", cwd=seeds).stdout


def test_other_evaluations_of_one_config_are_no_seeds_of_it(seeds, ups):
    path = seeds / "s1" / "reports" / "full_eval.json"
    path.write_text(path.read_text("utf-8").replace('"trajectories": 4', '"trajectories": 3'), encoding="utf-8")

    shown = ups("compare", "s0", "s1", cwd=seeds).stdout

    assert shown.splitlines()[0].split() == ["s0", "s1"]
    assert "evaluated.trajectories" in shown


def test_one_config_differs_in_nothing(seeds, ups):
    assert "differ" not in ups("compare", "s0", "s1", cwd=seeds).stdout


def test_runs_of_different_problems_are_compared_with_a_word_of_caution(seeds, ups):
    path = seeds / "wide" / "reports" / "full_eval.json"
    whole = json.loads(path.read_text("utf-8"))
    whole["data"]["family"] = "ks1d"
    path.write_text(json.dumps(whole), encoding="utf-8")

    done = ups("compare", "s0", "wide", cwd=seeds)

    assert done.stdout.startswith("Of different problems, whose figures are no scale for each other: burgers1d, ks1d")


def test_what_was_not_evaluated_is_not_compared(runs, ups):
    assert "sweep/b: holds no run that was evaluated" in refused(ups("compare", "sweep/a", "sweep/b", cwd=runs))


def test_a_comparison_is_a_page_too(run_dir, ups):
    done = ups("compare", ".", "--html", "pages/runs.html")

    assert done.returncode == 0, done.stderr
    page = (run_dir / "pages" / "runs.html").read_text("utf-8")
    assert "Runs beside each other" in page
    assert "Rollout nRMSE, mean" in page or "Rollout nRMSE" in page
    assert "http" not in page.replace("http-equiv", "")
