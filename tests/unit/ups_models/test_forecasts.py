"""Forecasts in pieces: the rows that belong together, their random numbers, and the same digits whoever answers."""

import numpy as np
import pytest
import torch

from tasks.services.run.paths import RunDir
from tasks.services.stages import evaluated
from ups_models.config.schema import EvalConfig
from ups_models.evaluation.evaluate import evaluate
from ups_models.evaluation.forecasts import PIECE_ROWS, PIECES, Forecasts, Question, Slice, pieces
from ups_models.nn.sampling import noise
from ups_models.stages.spec import SPECS

SETTINGS = EvalConfig(
    trajectories=16,
    members=3,
    one_step_pairs=40,
    steady_samples=20,
    ensemble_trajectories=16,
    ensemble_members=2,
    student_steps=(2,),
)
CPU = torch.device("cpu")


@pytest.mark.parametrize("n", [1, 7, 8, 9, 17, 100, 127, 10_000])
def test_pieces_hold_every_row_once_and_are_few_and_not_small(n):
    found = pieces(n)

    assert [row for start, stop in found for row in range(start, stop)] == list(range(n))
    assert len(found) <= PIECES
    assert all(stop - start >= min(n, PIECE_ROWS) for start, stop in found)


def test_a_slice_draws_what_its_rows_get_among_all():
    whole = noise((3 * 10, 4), torch.Generator().manual_seed(1)).view(3, 10, 4)

    found = Slice(torch.Generator().manual_seed(1), 3, 10, (2, 5))((9, 4))

    assert torch.equal(found.view(3, 3, 4), whole[:, 2:5])


@pytest.fixture
def trained(finished_run, smoke):
    run = RunDir.of(finished_run, smoke.checkpoint.dir)
    models = evaluated.models_of(smoke, run, dict.fromkeys(SPECS), CPU)
    return smoke, models, evaluated.data_of(smoke, SETTINGS, run, models)


def test_whoever_answers_in_whatever_order_the_digits_are_the_same(trained):
    cfg, models, data = trained
    others = Forecasts(cfg, SETTINGS, models, data, CPU)
    asked = []

    def by_others(_answer, question, parts):
        asked.append(question.kind)
        found = {rows: others.answer(question, rows) for rows in reversed(parts)}
        return [found[rows] for rows in parts]

    alone, arrays = evaluate(cfg, SETTINGS, models, data, device=CPU)
    shared, more = evaluate(cfg, SETTINGS, models, data, device=CPU, ask=by_others)

    assert set(asked) == {"one_step", "rollout", "pairs", "ensemble", "steady"}
    assert _figures(shared) == _figures(alone)
    assert arrays.keys() == more.keys()
    assert all(np.array_equal(arrays[name], more[name]) for name in arrays)


def _figures(result):
    return result.model_copy(update={"network": None}).to_json()  # its seconds differ


def test_nobody_is_asked_for_what_is_not_there(trained):
    cfg, models, data = trained

    found = Forecasts(cfg, SETTINGS, type(models)(operator=models.operator), data, CPU)

    assert found.samplers == {}
    with pytest.raises(ValueError, match="there is no steady prior"):
        found.answer(Question("steady"), (0, 1))
