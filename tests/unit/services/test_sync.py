"""What is not sent to W&B, and the one line that says so."""

import json

import pytest

from tasks.services.rental import outcome
from tasks.services.run.paths import RunDir
from tasks.services.stages.sync import upload_missing
from ups_models.errors import BadInput


def test_a_folder_without_a_run_is_named(smoke, tmp_path):
    with pytest.raises(BadInput, match=r"stage_status\.json: no such file; name the folder of a run"):
        upload_missing(smoke, RunDir.of(tmp_path, smoke.checkpoint.dir))

    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_trained_with_another_config_is_not_sent_as_this_one_s(smoke, run):
    raw = json.loads(run.status.read_text("utf-8"))
    raw["stages"]["diff_residual"]["config_hash"] = "0" * 16
    run.status.write_text(json.dumps(raw), encoding="utf-8")

    with pytest.raises(BadInput, match="its stage diff_residual was trained with another config; name that with"):
        upload_missing(smoke, run)


def test_a_run_that_a_process_works_on_is_not_sent(smoke, run):
    with pytest.raises(BadInput, match="is working on this run"):
        upload_missing(smoke, run)


def test_the_end_of_a_machine_whose_run_is_not_named_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setenv("UPS_RUN", "")

    assert outcome.main(["0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
