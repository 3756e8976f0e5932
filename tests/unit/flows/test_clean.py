"""`ups clean`: only what a finished run can do without, and only after asking."""

import json
import shutil

import pytest


@pytest.fixture
def answers(monkeypatch):
    """What a person answers."""
    return lambda text: monkeypatch.setattr("builtins.input", lambda question: text)


def test_nothing_is_removed_unless_a_person_agrees(run_dir, ups, answers):
    answers("n")

    shown = ups("clean")

    assert shown.returncode == 0
    assert "data/1D_Burgers_Sols_Nu0.1_" in shown.stdout
    assert list((run_dir / "data").iterdir())


def test_a_cleaned_run_is_still_finished_and_its_data_are_solved_again_where_needed(run_dir, ups, answers, train):
    answers("y")

    assert ups("clean").returncode == 0

    assert list((run_dir / "data").iterdir()) == []
    assert ups("status").stdout.count("completed") == 4
    before = (run_dir / "reports" / "full_eval.npz").read_bytes()
    train(skip_training=True, redo_full_eval=True)
    assert (run_dir / "reports" / "full_eval.npz").read_bytes() == before


def test_files_that_are_not_ours_stay(run_dir, ups):
    (run_dir / "data" / "my_measurements.hdf5").write_bytes(b"mine")

    assert ups("clean", "--yes").returncode == 0

    assert [path.name for path in (run_dir / "data").iterdir()] == ["my_measurements.hdf5"]


def test_a_stage_that_was_interrupted_keeps_its_saved_state(run_dir, ups):
    status = run_dir / "checkpoints" / "stage_status.json"
    raw = json.loads(status.read_text("utf-8"))
    raw["stages"]["steady_prior"]["status"] = "in_progress"
    status.write_text(json.dumps(raw), encoding="utf-8")

    assert "holds no finished run (steady_prior: in progress)" in ups("clean", "--yes").stderr


def test_where_nobody_answers_a_flag_is_needed(run_dir, ups, monkeypatch):
    def closed(question):
        raise EOFError

    monkeypatch.setattr("builtins.input", closed)

    assert "--yes does it without asking" in ups("clean").stderr
    assert ups("clean", "--yes").returncode == 0


def test_an_unfinished_run_and_a_folder_without_one_are_refused(run_dir, ups):
    status = run_dir / "checkpoints" / "stage_status.json"
    raw = json.loads(status.read_text("utf-8"))
    raw["stages"]["consistency_distill"]["status"] = "failed"
    status.write_text(json.dumps(raw), encoding="utf-8")

    assert ups("clean", "--yes").returncode == 2
    shutil.rmtree(run_dir / "checkpoints")
    assert "holds no finished run" in ups("clean", "--yes").stderr
    assert (run_dir / "data").exists()
