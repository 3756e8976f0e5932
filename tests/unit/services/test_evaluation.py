"""Evaluations of a run: what is used, what is said of it, and what is left out."""

import dataclasses
import json
import shutil

import pytest
import torch

from tasks.services.run.paths import RunDir
from tasks.services.stages import evaluated, evaluating
from tasks.services.stages.inputs import load_stage
from tasks.services.stages.reporting import write_report
from ups_models.config.schema import EvalConfig
from ups_models.data.generate import generate
from ups_models.errors import BadInput, CheckpointError
from ups_models.evaluation.evaluate import evaluate as ups_evaluate
from ups_models.evaluation.inputs import Models
from ups_models.nn.operator import LatentOperator
from ups_models.stages import operator
from ups_models.stages.registry import STAGES
from ups_models.stages.spec import SPECS

SETTINGS = EvalConfig(trajectories=4, members=4, one_step_pairs=8, steady_samples=4, student_steps=(2,))


@pytest.fixture
def run(tmp_path, finished_run, smoke):
    shutil.copytree(finished_run, tmp_path, dirs_exist_ok=True)
    return RunDir.of(tmp_path, smoke.checkpoint.dir)


def evaluate(cfg, run, files, **options):
    paths = {stage: run.checkpoint(name) for stage, name in files.items()}
    arguments = {"data_path": None, "run_dir": run.root, "prefix": run.reports / "mine", **options}
    return evaluating.evaluate_files(cfg, SETTINGS, paths, **arguments)


def test_a_file_of_its_own_is_evaluated_whole_and_labelled_so(run, smoke):
    generate("burgers1d", run.root / "own.hdf5", n=9, seed=3, parameters={"Nu": 0.1}, nx=64, nt=11, t_end=0.5)

    result = evaluate(smoke, run, {"operator": "operator_ema.pt"}, data_path=run.root / "own.hdf5")

    assert result.split == "file"
    assert result.data.files == ("own.hdf5",)


def test_data_outside_of_what_was_trained_on_are_told(run, smoke, caplog):
    generate("burgers1d", run.root / "own.hdf5", n=5, seed=3, parameters={"Nu": 0.5}, nx=64, nt=11, t_end=1.0)

    evaluate(smoke, run, {"operator": "operator_ema.pt"}, data_path=run.root / "own.hdf5")

    assert "the data have a time step of 0.1, trained on 0.05: errors there say nothing" in caplog.text
    assert "the data have Nu of 0.5, trained on 0.1: errors there say nothing" in caplog.text


def test_data_like_those_it_was_trained_on_are_told_nothing_of(run, smoke, caplog):
    generate("burgers1d", run.root / "own.hdf5", n=5, seed=3, parameters={"Nu": 0.1}, nx=64, nt=11, t_end=0.5)

    evaluate(smoke, run, {"operator": "operator_ema.pt"}, data_path=run.root / "own.hdf5")

    assert "the data have" not in caplog.text


def test_a_darcy_file_evaluates_the_prior_alone(run, smoke):
    generate("darcy2d", run.root / "own.hdf5", n=5, seed=3, parameters={"beta": 1.0}, nx=16)

    result = evaluate(smoke, run, {"steady_prior": "steady_prior_ema.pt"}, data_path=run.root / "own.hdf5")

    assert result.darcy.samples == 4
    assert result.rollout is None
    with pytest.raises(BadInput, match="give one with --prior"):
        evaluate(smoke, run, {"operator": "operator_ema.pt"}, data_path=run.root / "own.hdf5")


def test_rows_that_a_checkpoint_has_seen_cannot_pass_for_unseen_ones(run, smoke):
    other = smoke.model_copy(update={"data": smoke.data.model_copy(update={"test": 6})})

    with pytest.raises(CheckpointError, match="was trained with another split or resolution"):
        evaluate(other, run, {"operator": "operator_ema.pt"})


def test_every_viscosity_has_its_share_of_an_evaluation(run, smoke):
    files = []
    for nu in (0.1, 0.2):
        files.append(run.root / f"1D_Burgers_Sols_Nu{nu}.hdf5")
        generate("burgers1d", files[-1], n=24, seed=0, parameters={"Nu": nu}, nx=64, nt=11, t_end=0.5)
    cfg = smoke.model_copy(update={"data": smoke.data.model_copy(update={"files": tuple(files)})})
    data = evaluated.data_of(cfg, SETTINGS, run, Models(operator=load(smoke, run)))

    result, _ = ups_evaluate(cfg, SETTINGS, Models(operator=load(smoke, run)), data, device=torch.device("cpu"))

    assert result.data is not None
    assert result.rollout is not None
    assert result.data.parameter == (0.1, 0.2)
    assert set(result.rollout.by_parameter) == {"0.1", "0.2"}


def load(cfg, run):
    operator = load_stage("operator", cfg, run, torch.device("cpu"))
    assert isinstance(operator, LatentOperator)
    return operator


def test_a_report_leaves_out_results_of_weights_that_are_gone(run, caplog):
    status = run.status.read_text("utf-8")
    sha = json.loads(status)["stages"]["operator"]["files"]["operator_ema.pt"]["sha256"]
    run.status.write_text(status.replace(sha, "0" * 64), encoding="utf-8")

    path = write_report(run)

    assert "is of other weights of operator" in caplog.text
    assert "rollout nRMSE, mean" not in path.read_text("utf-8")


def test_a_report_shows_the_config_that_was_evaluated(run):
    assert "points: 64" in run.report.read_text("utf-8")


def test_there_is_no_report_of_a_run_that_is_not_there(tmp_path, smoke):
    with pytest.raises(BadInput, match="holds no run to report"):
        write_report(RunDir.of(tmp_path / "nowhere", smoke.checkpoint.dir))
    assert not (tmp_path / "nowhere").exists()


def test_a_tracker_is_handed_every_number_picture_and_the_page(run, smoke_payload):
    payload = smoke_payload

    assert list(payload.metrics) == ["small_eval", "full_eval"]
    assert payload.metrics["full_eval"]["rollout/summary/operator/mean"] > 0
    assert set(payload.images) == {
        *("panels", "horizon", "spectrum", "ensemble", "ensemble1", "ensemble2", "members", "darcy", "training")
    }
    assert all(image.startswith(b"\x89PNG") for image in payload.images.values())
    assert payload.html == run.report.read_text("utf-8")


def test_an_evaluation_of_version_1_is_reported(run):
    path = run.result("full_eval")
    content = json.loads(path.read_text("utf-8"))
    gates = [{**check, "goal": check.pop("stretch_goal", None)} for check in content.pop("checks")]
    new = write_report(run).read_text("utf-8")

    path.write_text(json.dumps({**content, "schema_version": 1, "gates": gates}), encoding="utf-8")

    assert write_report(run).read_text("utf-8") == new


def test_a_student_of_three_steps_is_evaluated_and_none_is_called_missing(run, smoke):
    settings = SETTINGS.model_copy(update={"student_steps": (3,)})
    stages = ("operator", "diff_residual", "consistency_distill")
    files = {stage: run.checkpoint(SPECS[stage].checkpoint) for stage in stages}

    result = evaluating.evaluate_files(
        smoke, settings, files, data_path=None, run_dir=run.root, prefix=run.reports / "mine"
    )

    assert result.probabilistic is not None
    assert result.probabilistic.samplers["consistency_3"].nfe == 3
    text = (run.reports / "mine.md").read_text("utf-8")
    assert "| Consistency, 3 steps |" in text
    assert "Not evaluated: consistency_distill" not in text


def test_an_operator_of_another_class_is_named_rather_than_left_out(run, smoke, monkeypatch):
    class Wrapped(torch.nn.Module):
        def __init__(self, cfg):
            super().__init__()
            self.__dict__["_modules"] = operator.build(cfg)._modules

    monkeypatch.setitem(STAGES, "operator", dataclasses.replace(STAGES["operator"], build=Wrapped))

    with pytest.raises(BadInput, match="stage operator: its network is a Wrapped"):
        evaluate(smoke, run, {"operator": "operator_ema.pt", "steady_prior": "steady_prior_ema.pt"})
