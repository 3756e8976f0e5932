"""Seconds of an operator's rollouts beside the solver's: what is compared, what follows, and where it is shown."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flows.requests.job import settings_of
from tasks.services.run.lock import owned
from tasks.services.run.paths import RunDir
from tasks.services.stages.evaluated import data_of, models_of
from tasks.services.stages.evaluating import evaluate_run
from ups_models.config.data import DataConfig
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.data.fields import Fields
from ups_models.errors import BadInput
from ups_models.evaluation.forecasts import case_of
from ups_models.evaluation.result import Solved, Speed, read_result
from ups_models.evaluation.speed import _of_solver, measure_speed, other_domain, seconds_of_data
from ups_models.problems.problem import Axis, Solver
from ups_models.problems.registry import BURGERS
from ups_models.report.markdown import render_markdown

CPU = torch.device("cpu")
SOLVER = (
    Solved(points=8, trajectory_s=0.001, error=0.2),
    Solved(points=16, trajectory_s=0.004, error=0.05),
    Solved(points=32, trajectory_s=0.016, error=0.01),
)


def speed(error, batched_s=0.003):
    return Speed(
        trajectories=4, device="cpu", error=error, alone_s=0.1, batched_s=batched_s, batch=64, solver=SOLVER,
        data_s=2.0, training_s=8.0,
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

    found = measure_speed(case, 4, smoke.data, training_s=1.0)

    assert found.trajectories == 1
    assert [one.points for one in found.solver] == [8, 16, 32, 64]
    assert all(one.trajectory_s > 0 for one in found.solver)


def test_the_solver_on_the_grid_of_the_data_errs_by_what_it_was_solved_finer(smoke, run):
    case = case_in(smoke, run)

    found = measure_speed(case, 2, smoke.data, training_s=1.0)

    errors = [one.error for one in found.solver]
    assert found.trajectories == 2
    assert errors[-1] < 1e-3 < found.error
    assert errors == sorted(errors, reverse=True)


def test_where_an_axis_has_walls_a_coarser_grid_has_the_means_over_cells():
    linear = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 3, 1, 8)
    asked = []

    def solve(u0, parameters, times, on_progress):
        asked.append(u0)
        return u0[:, None].expand(-1, len(times), *u0.shape[1:])

    walls = replace(
        BURGERS, name="walls", parameters=(), axes=(Axis("x", periodic=False, offset=0.5),), symmetries=(),
        solver=Solver(lambda n, points, parameters, rng: torch.zeros(n, 1, *points), solve),
    )  # fmt: skip
    fields = Fields(
        walls, linear, (torch.arange(8) / 8,), torch.tensor([1.0, 2.0, 3.0]), torch.empty(1, 0), torch.tensor([0])
    )

    found = _of_solver(fields, 4, None)

    assert asked[0].flatten().tolist() == [1.5, 5.5]
    assert (found.points, found.error) == (2, 0.0)


OWN = """
import time, torch
from ups_models import Axis, Parameter, Problem, Sampling, Solver

def initial(n, points, parameters, rng):
    assert points == (128,)
    return torch.zeros(n, 1, *points)

def solve(u0, parameters, times, on_progress):
    assert len(times) == 11
    time.sleep(0.2 * parameters["Nu"])
    return u0

SOLVER = Solver(initial, solve)
SLOW = Problem("slow", ("u",), (Parameter("Nu", 1.0),), (Axis("x"),), Sampling(64, nt=11, t_end=1.0), SOLVER)
"""


def test_data_cost_what_each_file_takes_at_its_own_parameters_and_nothing_where_they_were_given(tmp_path):
    (tmp_path / "slow.py").write_text(OWN)
    generate = {"n": 10, "parameters": [1.0, 3.0]}
    values = {"problem": f"{tmp_path / 'slow.py'}:SLOW", "points": 64, "reduced_resolution": 2, "generate": generate}
    data = DataConfig.model_validate({**values, "test": 1, "val": 1})

    assert 0.9 < seconds_of_data(data) / (10 * (0.2 + 0.6) / 2) < 1.5
    assert seconds_of_data(data.model_copy(update={"files": (Path("given.h5"),)})) == 0.0


def test_an_evaluation_that_asks_for_it_says_it_in_its_report(smoke, run):
    settings = EvalConfig(split="test", trajectories=4, members=2, one_step_pairs=4, solver_trajectories=2)
    with owned(run) as held:
        result = evaluate_run("full_eval", smoke, settings, held)

    assert read_result(run.result("full_eval", ".json")).speed == result.speed
    text = render_markdown(result)
    assert "Solver, 64 points along an axis" in text
    assert "errs no more than the operator" in text
    assert "Not measured: seconds beside the solver's" in render_markdown(result.model_copy(update={"speed": None}))


def test_a_problem_without_a_solver_is_refused_before_anything_is_trained():
    values = {"data": {"problem": "diffusion_sorption1d", "files": ["some.h5"]}}

    for name in ("small_eval", "full_eval"):
        with pytest.raises(ValueError, match="solver_trajectories=4 needs a solver, and diffusion_sorption1d has none"):
            PipelineConfig.model_validate(values | {"evaluations": {name: {"solver_trajectories": 4}}})


def test_more_known_frames_than_there_will_be_are_refused_before_anything_is_trained():
    with pytest.raises(ValueError, match="given_frames=41 leaves nothing to forecast: the data have 41 times"):
        PipelineConfig.model_validate({"evaluations": {"full_eval": {"given_frames": 41}}})


def test_an_evaluation_of_a_file_of_its_own_is_held_to_the_data_too(smoke, tmp_path):
    (tmp_path / "eval.yaml").write_text("given_frames: 11\n")

    with pytest.raises(BadInput, match="full_eval: given_frames=11 leaves nothing to forecast"):
        settings_of(smoke, "full_eval", tmp_path / "eval.yaml")


def test_data_of_another_domain_than_the_solvers_are_told(smoke, run):
    data = case_in(smoke, run).data

    assert other_domain(data) == ""
    assert other_domain(replace(data, axes=(torch.linspace(0, 1, 64),))) == ""
    longer = replace(data, axes=(22.0 * data.axes[0],))
    assert other_domain(longer) == "x is 22 long in the data, and 1 for the solver"
