"""Evaluations of a run: what is used, what is said of it, and what is left out."""

import json
import shutil

import pytest
import torch

from tasks.services.run.paths import RunDir
from tasks.services.stages import evaluating as evaluation
from tasks.services.stages.training import load_stage
from ups_models.config.schema import EvalConfig
from ups_models.data.generate import generate
from ups_models.errors import BadInput, CheckpointError
from ups_models.evaluation.evaluate import Models
from ups_models.evaluation.evaluate import evaluate as ups_evaluate
from ups_models.nn.operator import LatentOperator

SETTINGS = EvalConfig(trajectories=4, members=4, one_step_pairs=8, steady_samples=4, student_steps=(2,))


@pytest.fixture
def run(tmp_path, finished_run, smoke):
    shutil.copytree(finished_run, tmp_path, dirs_exist_ok=True)
    return RunDir.of(tmp_path, smoke.checkpoint.dir)


def evaluate(cfg, run, files, **options):
    paths = {stage: run.checkpoint(name) for stage, name in files.items()}
    arguments = {"data_path": None, "run_dir": run.root, "prefix": run.reports / "mine", **options}
    return evaluation.evaluate_files(cfg, SETTINGS, paths, **arguments)


def test_a_file_of_its_own_is_evaluated_whole_and_labelled_so(run, smoke):
    generate("burgers1d", run.root / "own.hdf5", n=9, seed=3, parameter=0.1, nx=64, nt=11, t_end=0.5)

    figures = evaluate(smoke, run, {"operator": "operator_ema.pt"}, data_path=run.root / "own.hdf5")

    assert figures["split"] == "file"
    assert figures["data"]["files"] == ["own.hdf5"]


def test_a_darcy_file_evaluates_the_prior_alone(run, smoke):
    generate("darcy2d", run.root / "own.hdf5", n=5, seed=3, parameter=1.0, nx=16)

    figures = evaluate(smoke, run, {"steady_prior": "steady_prior_ema.pt"}, data_path=run.root / "own.hdf5")

    assert figures["darcy"]["samples"] == 4
    assert "rollout" not in figures
    with pytest.raises(BadInput, match="give one with --prior"):
        evaluate(smoke, run, {"operator": "operator_ema.pt"}, data_path=run.root / "own.hdf5")


def test_rows_that_a_checkpoint_has_seen_cannot_pass_for_unseen_ones(run, smoke):
    other = smoke.model_copy(update={"data": smoke.data.model_copy(update={"test": 6})})

    with pytest.raises(CheckpointError, match="rows it has seen could pass for unseen"):
        evaluate(other, run, {"operator": "operator_ema.pt"})


def test_every_viscosity_has_its_share_of_an_evaluation(run, smoke):
    files = []
    for nu in (0.1, 0.2):
        files.append(run.root / f"1D_Burgers_Sols_Nu{nu}.hdf5")
        generate("burgers1d", files[-1], n=24, seed=0, parameter=nu, nx=64, nt=11, t_end=0.5)
    cfg = smoke.model_copy(update={"data": smoke.data.model_copy(update={"files": tuple(files)})})
    data = evaluation._data_of(cfg, SETTINGS, run, Models(operator=load(smoke, run)))

    figures, _ = ups_evaluate(cfg, SETTINGS, Models(operator=load(smoke, run)), data, device=torch.device("cpu"))

    assert figures["data"]["parameter"] == [0.1, 0.2]
    assert set(figures["rollout"]["by_parameter"]) == {"0.1", "0.2"}


def load(cfg, run):
    operator = load_stage("operator", cfg, run, torch.device("cpu"))
    assert isinstance(operator, LatentOperator)
    return operator


def test_a_report_leaves_out_figures_of_weights_that_are_gone(run, caplog):
    status = run.status.read_text("utf-8")
    sha = json.loads(status)["stages"]["operator"]["files"]["operator_ema.pt"]["sha256"]
    run.status.write_text(status.replace(sha, "0" * 64), encoding="utf-8")

    path = evaluation.write_report(run)

    assert "is of other weights of operator" in caplog.text
    assert "rollout nRMSE, mean" not in path.read_text("utf-8")


def test_a_report_shows_the_config_that_was_evaluated(run):
    assert "points: 64" in evaluation.write_report(run).read_text("utf-8")


def test_there_is_no_report_of_a_run_that_is_not_there(tmp_path, smoke):
    with pytest.raises(BadInput, match="holds no run to report"):
        evaluation.write_report(RunDir.of(tmp_path / "nowhere", smoke.checkpoint.dir))
    assert not (tmp_path / "nowhere").exists()
