"""Seconds of an operator's rollouts beside the solver's: what is compared, what follows, and where it is shown."""

import math
import shutil

import pytest
import torch

from tasks.services.run.lock import owned
from tasks.services.run.paths import RunDir
from tasks.services.stages.evaluated import data_of, models_of
from tasks.services.stages.evaluating import evaluate_run
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.evaluation.forecasts import case_of
from ups_models.evaluation.result import Solved, Speed, read_result
from ups_models.evaluation.speed import measure_speed
from ups_models.report.markdown import render_markdown

CPU = torch.device("cpu")
SOLVER = (
    Solved(points=8, seconds=0.001, error=0.2),
    Solved(points=16, seconds=0.004, error=0.05),
    Solved(points=32, seconds=0.016, error=0.01),
)


def speed(error, batched=0.003):
    return Speed(
        trajectories=4, error=error, alone=0.1, batched=batched, batch=64, solver=SOLVER, data_seconds=2.0,
        training_seconds=8.0,
    )  # fmt: skip


@pytest.fixture
def run(finished_run, smoke, tmp_path):
    return RunDir.of(shutil.copytree(finished_run, tmp_path / "run"), smoke.checkpoint.dir)


def case_in(cfg, run):
    settings = EvalConfig(split="test", trajectories=4)
    models = models_of(cfg, run, {"operator": None}, CPU)
    case = case_of(cfg, settings, models, data_of(cfg, settings, run, models), CPU)
    assert case is not None
    return case


def test_the_solver_of_equal_error_is_the_coarsest_that_errs_no_more():
    assert speed(0.05).equal == SOLVER[1]
    assert speed(0.3).equal == SOLVER[0]
    assert speed(0.001).equal is None


def test_it_has_paid_once_what_each_forecast_saves_outweighs_data_and_training():
    assert speed(0.05).breakeven == pytest.approx(10 / (0.004 - 0.003))
    assert speed(0.2).breakeven == math.inf  # that solution is faster than a forecast
    assert speed(0.001).breakeven == math.inf  # nothing to compare with


def test_the_solver_is_given_ever_finer_grids_and_rows_of_one_parameter(smoke, run):
    case = case_in(smoke, run)
    case.data.parameters[0] = 0.2

    alone, two = (measure_speed(case, rows, samples=24, training_seconds=1.0) for rows in (4, 2))

    assert (alone.trajectories, two.trajectories) == (1, 1)
    assert [one.points for one in alone.solver] == [8, 16, 32, 64]
    assert all(one.seconds > 0 for one in alone.solver)
    assert alone.data_seconds > 0


def test_the_finest_grid_of_the_solver_errs_as_little_as_rounding(smoke, run):
    case = case_in(smoke, run)

    found = measure_speed(case, 2, samples=24, training_seconds=1.0)

    assert found.trajectories == 2
    assert found.solver[-1].error < 1e-3 < found.error


def test_an_evaluation_that_asks_for_it_says_it_in_its_report(smoke, run):
    settings = EvalConfig(split="test", trajectories=4, members=2, one_step_pairs=4, solver_trajectories=2)
    with owned(run) as held:
        result = evaluate_run("full_eval", smoke, settings, held)

    assert read_result(run.result("full_eval", ".json")).speed == result.speed
    text = render_markdown(result)
    assert "Solver, 64 points along an axis" in text
    assert "errs no more than the operator" in text
    assert "solver's seconds; this evaluation asked for none" in render_markdown(
        result.model_copy(update={"speed": None})
    )


def test_a_problem_without_a_solver_is_refused_before_anything_is_trained():
    values = {"data": {"problem": "diffusion_sorption1d", "files": ["some.h5"]}}

    with pytest.raises(
        ValueError, match="solver_trajectories=4 needs a solver, and diffusion_sorption1d has none here"
    ):
        PipelineConfig.model_validate(values | {"evaluations": {"full_eval": {"solver_trajectories": 4}}})
