"""Sweeps: their points and names, what is refused, data that runs share, and the leaderboard."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest

from flows import ROOT
from flows.requests.sweep import name_of, trials_of
from flows.sweep import leaderboard_of
from tasks.services.data.datasets import trajectory_files
from tasks.services.run.paths import RunDir
from tasks.services.stages.leaderboard import LeaderboardRow, leaderboard, student_t, table_of, write_leaderboard
from tasks.services.stages.runs import evaluated_run
from ups_models.errors import BadInput


@pytest.fixture
def sweep(here):
    """Write a sweep of the smoke config; returns its path."""

    def write(text):
        path = here / "sweep.yaml"
        path.write_text(f"config: smoke\n{text}", "utf-8")
        return path

    return write


def test_a_grid_has_every_combination_and_every_seed(sweep, here):
    trials = trials_of(sweep("grid: {operator.width: [8, 16], latent.dim: [4, 8]}"), here / "s", range(2))

    assert [trial.name for trial in trials][:3] == [
        "operator.width=8,latent.dim=4/seed0",
        "operator.width=8,latent.dim=4/seed1",
        "operator.width=8,latent.dim=8/seed0",
    ]
    assert len(trials) == 8
    assert trials[1].job().cfg.seed == 1
    assert trials[-1].job().cfg.operator.width == 16
    assert trials[-1].request.run_dir == here / "s" / "operator.width=16,latent.dim=8" / "seed1"


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_sweeps_are_valid_and_found_by_name(path, here):
    assert trials_of(path, here, [0]) == trials_of(Path(path.stem), here, [0])


def test_a_list_has_the_points_that_it_names_over_settings_of_all(sweep, here):
    path = sweep("set: [operator.width=8]\npoints:\n- {latent.dim: 4}\n- {latent.dim: 8, operator.blocks: 1}")

    trials = trials_of(path, here, [0])

    assert [trial.point for trial in trials] == ["latent.dim=4", "latent.dim=8,operator.blocks=1"]
    assert {trial.job().cfg.operator.width for trial in trials} == {8}


def test_more_runs_than_anybody_waits_for_are_refused_at_once(sweep, here):
    with pytest.raises(BadInput, match="would make 1000000000 runs"):
        trials_of(sweep("points: [{latent.dim: 4}]"), here, range(10**9))


def test_a_point_that_changes_nothing_has_a_name(sweep, here):
    trials = trials_of(sweep("points: [{}, {latent.dim: 8}]"), here, [0])

    assert [trial.name for trial in trials] == ["unchanged/seed0", "latent.dim=8/seed0"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: {operator.widht: [8]}", "operator.widht"),
        ("grid: {operator.width: [8]}\npoints: [{latent.dim: 4}]", "should have `grid` or `points`, one of them"),
        ("set: [latent.dim=2]", "should have `grid` or `points`, one of them"),
        ("grid: {operator.width: []}", "grid.operator.width has no value"),
        ("points: [{latent.dim: 4}, {latent.dim: 8}, {latent.dim: 4}]", "point 3 is point 1 again: 'latent.dim=4'"),
        ("points: [{latent.dim: 4}, {latent.dim: 4.0}]", "point 2 is point 1 again: 'latent.dim=4.0'"),
        (
            "grid: {latent.dim: [4, 2]}",
            "point latent.dim=2: .*latent.dim=2 is not divisible by",
        ),
        ("girds: {}", "girds"),
        ("grid: {seed: [0, 1]}", "seed is no setting of a sweep: every point has the same seeds, --seeds N"),
        ("grid: {latent.dim: [4]}\nset: [seed=3]", "seed is no setting of a sweep"),
        ("points: [{operator.width: 2020-01-01}]", "operator.width: .* is no value of a config"),
        ("grid: {operator.width: [8], latent.dim: [!!binary aGk=]}", "latent.dim: .* is no value of a config"),
        (f"grid: {{latent.dim: {[4] * 200}, latent.tokens: {[8] * 200}}}", "has 40000 points; a sweep has at most"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_anything_is_trained(sweep, here, text, message):
    with pytest.raises(BadInput, match=message):
        trials_of(sweep(text), here / "s", [0])

    assert not (here / "s").exists()


def test_names_are_folders_however_the_settings_read():
    assert name_of({"data.files": ["/a/b.h5"]}) == name_of({"data.files": ["/a/b.h5"]})
    assert "/" not in name_of({"data.files": ["/a/b.h5"]})
    assert name_of({"data.files": ["/a/b.h5"]}) != name_of({"data.files": ["_a_b.h5"]})
    assert len(name_of({f"key{n}": n for n in range(40)})) < 100


def test_data_are_solved_once_where_several_runs_share_a_folder(here, smoke, monkeypatch):
    monkeypatch.setenv("UPS_DATA", str(here / "shared"))

    files = [trajectory_files(smoke, RunDir.of(here / name, smoke.checkpoint.dir)) for name in ("a", "b")]

    assert files[0] == files[1]
    assert {path.parent for path in files[0]} == {here / "shared"}


def test_the_best_mean_leads_and_others_are_behind_it_seed_by_seed(run_dir):
    run = evaluated_run(run_dir)

    found = leaderboard({("a", 0): run, ("a", 1): run, ("b", 0): run, ("b", 1): "exit code 1: no"})

    assert [one.point for one in found] == ["a", "b"]
    assert found[0].behind is None
    assert found[1].behind == (0.0, -math.inf, math.inf)
    assert found[1].missing == {1: "exit code 1: no"}
    assert "seed 1: exit code 1: no" in table_of(found).rows[1]


def test_differences_have_an_interval_of_their_own():
    best = LeaderboardRow("a", {0: 0.1, 1: 0.2, 2: 0.3}, {}, 60.0)
    assert best.mean == pytest.approx(0.2)
    assert best.spread == pytest.approx(0.1)

    rows = table_of([best, LeaderboardRow("b", {0: 0.2}, {}, 60.0, (0.1, 0.05, 0.15))]).rows

    assert rows[0][2] == "0.2 ± 0.1"
    assert rows[1][4] == "+0.1 [+0.05, +0.15]"


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (29, 2.045)]
)
def test_intervals_are_those_of_student(freedom, quantile):
    assert student_t(freedom) == pytest.approx(quantile, rel=0.01)


def test_the_leaderboard_is_kept_for_other_programs(here):
    written = [LeaderboardRow("a", {0: 0.1}, {1: "not evaluated"}, 1.0), LeaderboardRow("b", {}, {}, 0.0)]

    write_leaderboard(here / "leaderboard.json", written)

    rows = json.loads((here / "leaderboard.json").read_text())
    assert rows[0]["mean"] == 0.1
    assert rows[0]["missing"] == {"1": "not evaluated"}
    assert rows[1]["mean"] is None


def test_what_was_not_trained_has_no_standing(sweep, here):
    trials = trials_of(sweep("grid: {latent.dim: [4]}"), here / "s", [0])

    [found] = leaderboard_of(trials, {})

    assert found.missing == {0: "not evaluated"}
    assert table_of([found]).rows[0][2] == "-"


def test_what_is_trained_already_is_only_compared(sweep, here, finished_run, ups):
    path = sweep("grid: {runtime.threads: [1]}")
    shutil.copytree(finished_run, here / "s" / "runtime.threads=1" / "seed0")

    done = ups("sweep", str(path), "--out", "s")

    assert done.returncode == 0, done.stderr
    assert "runtime.threads=1/seed0: done" in done.stderr
    [row] = json.loads((here / "s" / "leaderboard.json").read_text())
    assert row["errors"] == {"0": evaluated_run(finished_run).error}
    assert "runtime.threads=1" in (here / "s" / "leaderboard.html").read_text()


def test_a_run_of_other_settings_is_no_result_of_the_sweep(sweep, here, finished_run, ups):
    path = sweep("grid: {runtime.threads: [1]}\nset: [stages.operator.lr=0.5]")
    shutil.copytree(finished_run, here / "s" / "runtime.threads=1" / "seed0")

    done = ups("sweep", str(path), "--out", "s")

    assert done.returncode == 1
    assert "was trained with other settings than the sweep has now; choose another --out" in done.stderr


def test_all_runs_of_a_sweep_can_be_compared(sweep, here, finished_run, ups):
    path = sweep("grid: {runtime.threads: [1]}")
    shutil.copytree(finished_run, here / "s" / "runtime.threads=1" / "seed0")
    assert ups("sweep", str(path), "--out", "s").returncode == 0

    done = ups("compare", "s")

    assert done.returncode == 0, done.stderr
    assert "s/runtime.threads=1/seed0" in done.stdout


def test_a_point_that_cannot_be_trained_is_shown_and_the_others_are_compared(sweep, here, finished_run, ups):
    path = sweep("grid: {data.files: [[], [nowhere.hdf5]]}")
    good, bad = (here / "s" / name_of({"data.files": files}) / "seed0" for files in ([], ["nowhere.hdf5"]))
    shutil.copytree(finished_run, good)

    done = ups("sweep", str(path), "--out", "s")

    assert done.returncode == 1
    assert "some points have no result" in done.stderr
    assert "nowhere.hdf5: no such" in done.stdout
    assert not bad.exists()


def test_a_seed_that_diverged_is_missing_and_the_leaderboard_is_json(here, finished_run, monkeypatch):
    run = evaluated_run(finished_run)
    monkeypatch.setattr(type(run), "error", property(lambda self: float("nan") if self.root.name == "bad" else 0.1))
    bad = dataclasses.replace(run, root=Path("bad"))

    found = leaderboard({("a", 0): bad, ("a", 1): run, ("b", 0): run, ("b", 1): run, ("c", 0): bad})
    write_leaderboard(here / "leaderboard.json", found)

    assert [one.point for one in found] == ["b", "a", "c"]
    assert found[1].missing == {0: "diverged: its error is not finite"}
    assert json.loads((here / "leaderboard.json").read_text())[1]["behind"] == [0.0, None, None]
