"""Results of an evaluation: typed, written and read back; every number a row of the registry; the checks."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from flows import ROOT
from ups_models.errors import BadInput
from ups_models.evaluation import registry
from ups_models.evaluation.checks import CHECKS, CheckRow, check
from ups_models.evaluation.ensembles import ensemble_scores
from ups_models.evaluation.inputs import Models
from ups_models.evaluation.parts import (
    DARCY,
    ENSEMBLE_HORIZON,
    ENSEMBLES,
    HORIZONS,
    ONE_STEP,
    PARTS,
    ROLLOUT,
    ROLLOUT_ENSEMBLES,
    main_error,
    score,
)
from ups_models.evaluation.registry import METRICS, Metric, measure, metrics_in, numbers_of
from ups_models.evaluation.result import Check, EvaluationResult, PeerResult, read_result
from ups_models.evaluation.samples import Ensemble, Forecast
from ups_models.report.tables import by_model
from ups_models.report.words import bounds, verdict
from ups_models.stages import steady_prior

VERSION_1 = Path(__file__).with_name("evaluation_v1.json")


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of a tree of mappings by its path; a list is a leaf."""
    if not isinstance(value, dict):
        return {path: value}
    leaves = (flat(item, f"{path}/{key}" if path else key) for key, item in value.items())
    return {name: leaf for found in leaves for name, leaf in found.items()}


def read(tmp_path, content):
    path = tmp_path / "full_eval.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_result(path)


# --- the file


def test_what_is_written_is_read_back(tmp_path, smoke_result):
    again = read(tmp_path, smoke_result.to_json())

    assert again.to_json() == smoke_result.to_json()
    assert again.probabilistic == smoke_result.probabilistic
    assert json.loads(smoke_result.to_json())["schema_version"] == 2


def test_numbers_that_are_not_finite_are_null_in_the_file_and_no_number_when_read(tmp_path, smoke_result):
    errors = {"operator": {"nrmse": math.nan, "mae": math.inf}}

    text = smoke_result.model_copy(update={"one_step": errors}).to_json()

    assert json.loads(text)["one_step"] == {"operator": {"nrmse": None, "mae": None}}
    assert all(math.isnan(value) for value in read(tmp_path, text).one_step["operator"].values())


def test_file_of_version_1_is_read_with_every_number(tmp_path):
    old = json.loads(VERSION_1.read_text("utf-8"))

    result = read_result(VERSION_1)

    new = json.loads(result.to_json())
    gates = old.pop("gates")
    checks = new.pop("checks")
    assert flat({**old, "schema_version": 2}) == flat(new)
    assert [(it["name"], it["value"], it["bound"], it["sense"], it["reached"]) for it in checks] == [
        (it["name"], it["value"], it["bound"], it["sense"], it["reached"]) for it in gates
    ]
    assert [it.get("stretch_goal") for it in checks] == [it["goal"] for it in gates]


def test_evaluation_of_a_newer_schema_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"full_eval\.json: schema_version 3, but this version reads 1 and 2"):
        read(tmp_path, {"schema_version": 3})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "Expecting value"),
        ("[]", "it is a list"),
        ('{"seed": "none"}', "seed: Input should be a valid integer"),
        ('{"rollout": {"summary": {"operator": 3}}}', "rollout.summary.operator: Input should be a valid"),
    ],
)
def test_file_that_is_no_evaluation_is_named_with_the_reason(tmp_path, content, reason):
    with pytest.raises(BadInput, match=rf"full_eval\.json: holds no evaluation \({reason}"):
        read(tmp_path, content)


# --- the registry


def test_every_number_of_a_result_is_a_metric_or_a_fact(smoke_result):
    written = flat(json.loads(smoke_result.to_json()))

    numbers = {name: value for name, value in written.items() if type(value) in (int, float)}

    assert numbers_of(smoke_result) == numbers


PEER = PeerResult(
    mean=0.1,
    median=0.1,
    p90=0.2,
    ci95=(0.1, 0.2),
    one_step=0.01,
    parameters=10,
    steps=3,
    seconds_per_step=1,
    operator_seconds_per_step=1,
    gflops=1,
    operator_gflops=1,
)


def test_every_metric_is_measured_where_it_applies(smoke_result):
    result = smoke_result.model_copy(update={"peers": {"unet": PEER}})
    for part in PARTS:
        measured = {key for scores in part.scores(result).values() for key in scores}

        assert measured == {metric.key for metric in metrics_in(part)}, part.key


def test_new_row_is_measured_written_and_shown(monkeypatch, tmp_path):
    row = Metric(Ensemble, "reach", "reach of the members", lambda it: it.members.amax().item(), (ENSEMBLES,), "u")
    monkeypatch.setattr(registry, "METRICS", (*METRICS, row))
    members, target = torch.rand(4, 6, 8), torch.rand(6, 8)

    scores = measure(ENSEMBLES, Ensemble(members, target, target.square().mean(-1).sqrt(), nfe=3, seed=0))

    ensembles = {"diffusion": {**scores, "coverage": {}}}
    result = read(tmp_path, EvaluationResult.model_validate({"probabilistic": ensembles}).to_json())
    reach = members.max().item()
    assert numbers_of(result)["probabilistic/diffusion/reach"] == reach
    assert by_model("", result, ENSEMBLES, ["diffusion"]).rows[-1][0] == "Reach of the members"


def test_docs_list_every_metric():
    text = (ROOT / "docs" / "methods.md").read_text("utf-8")

    rows = dict.fromkeys(
        f"| `{metric.key}` | {metric.label} | {metric.unit} | {f'{metric.ideal:g}'.replace('inf', '∞')} | "
        f"{', '.join(f'`{part.key}`' for part in metric.parts)} |"
        for metric in METRICS
    )

    assert "\n".join(rows) in text, "docs/methods.md: replace the table of metrics with\n" + "\n".join(rows)


# --- the checks


def test_checks_apply_as_far_as_there_are_numbers(smoke_result):
    apart = re.compile("peer|regression")  # of which the run has none
    expected = [row.name for row in CHECKS if row.absolute is not False and row.steps in (None, 1)]
    assert [it.name for it in check(smoke_result)] == [name for name in expected if not apart.search(name)]
    assert smoke_result.checks == check(smoke_result)
    assert check(EvaluationResult()) == ()
    without_members = smoke_result.model_copy(update={"probabilistic": None, "probabilistic_rollout": None})
    assert len(check(without_members)) == 6


def test_check_is_a_number_or_a_quotient_of_two(smoke_result):
    by_name = {it.name: it for it in smoke_result.checks}
    ensembles = smoke_result.probabilistic

    assert by_name["rollout nRMSE, mean"].value == score(smoke_result, ROLLOUT, "operator", "mean")
    assert by_name["CRPS of one step / error of one forecast"].value == (
        ensembles.samplers["consistency_1"].scores["crps"] / ensembles.operator["mae"]
    )


@pytest.mark.parametrize(
    ("sense", "value", "reached", "stretched"),
    [("<=", 0.4, True, True), ("<=", 0.5, True, False), ("<=", 0.6, False, False), ("<=", math.nan, False, False),
     (">=", 0.6, True, False), (">=", 0.5, True, False), (">=", 0.4, False, False), (">=", math.nan, False, False)],
)  # fmt: skip
def test_check_has_either_sense(sense, value, reached, stretched):
    result = EvaluationResult(one_step={"operator": {"nrmse": value}})
    row = CheckRow("it", (ONE_STEP, "operator", "nrmse"), 0.5, stretch_goal=0.45 if sense == "<=" else 0.7, sense=sense)

    (found,) = check(result, (row,))

    assert found.stretch_goal is not None
    assert (found.reached, found.meets(found.stretch_goal)) == (reached, stretched)


def test_quotient_of_zero_keeps_no_bound():
    result = EvaluationResult(one_step={"operator": {"nrmse": 1.0}, "zero": {"nrmse": 0.0}})

    (found,) = check(result, (CheckRow("it", (ONE_STEP, "operator", "nrmse"), 1.0, (ONE_STEP, "zero", "nrmse")),))

    assert math.isnan(found.value)
    assert not found.reached


@pytest.mark.parametrize(("value", "reached"), [(0.8, False), (0.85, True), (1.0, True), (1.2, True), (1.3, False)])
def test_a_check_may_have_two_bounds(value, reached):
    result = EvaluationResult(one_step={"operator": {"nrmse": value}})

    (found,) = check(result, (CheckRow("it", (ONE_STEP, "operator", "nrmse"), 1.2, lower=0.85),))

    assert found.reached is reached
    assert bounds(found) == "0.850 to 1.20"
    assert ("bound 0.850 to 1.20" in verdict(result.model_copy(update={"checks": (found,)})).text) is not reached


def test_an_ensemble_is_judged_as_long_as_forecasts_correlate_with_the_truth():
    rollout = {"times": [0.1, 0.2, 0.3, 0.4], "correlation_time": {"0.8": 0.25}}
    result = EvaluationResult.model_validate({"one_step": {"operator": {"nrmse": 1.0}}, "rollout": rollout})

    rows = [CheckRow(str(steps), (ONE_STEP, "operator", "nrmse"), 1.0, steps=steps) for steps in (1, 2, 3, 4)]

    assert [it.name for it in check(result, tuple(rows))] == ["1", "2"]


# --- every check of an ensemble can fail


def judged(change=lambda members, target: members):
    """The checks of rollouts whose members are drawn from the distribution of the truth, and then changed."""
    generator = torch.Generator().manual_seed(0)
    count, rows, steps, points = 32, 24, 40, 48
    scale = torch.rand(rows, steps, 1, 1, generator=generator) + 0.5
    center = 5 * torch.randn(rows, steps, 1, points, generator=generator)
    target = center + scale * torch.randn(rows, steps, 1, points, generator=generator)
    members = center + scale * torch.randn(count, rows, steps, 1, points, generator=generator)
    forecast = center + 1.1 * scale * torch.randn(rows, steps, 1, points, generator=generator)  # it errs a little more
    whole = Ensemble(change(members, target), target, target.square().mean(-1).sqrt(), nfe=1, seed=0)
    horizons = {str(n): ensemble_scores(ENSEMBLE_HORIZON, whole.after(n)) for n in HORIZONS}
    found = {
        "operator": measure(ROLLOUT_ENSEMBLES, Forecast.of(forecast, target, 1)),
        "consistency_1": ensemble_scores(ROLLOUT_ENSEMBLES, whole, horizons),
    }
    alone = {"operator": found["operator"], "consistency_1": ensemble_scores(ENSEMBLES, whole)}
    result = EvaluationResult.model_validate({"probabilistic_rollout": found, "probabilistic": alone})
    return {it.name: it.reached for it in check(result)}


def doubled(members, target):
    return members.mean(0) + 2 * (members - members.mean(0))


MUTATIONS = {
    "no spread": lambda members, target: members.mean(0) + 0 * members,
    "doubled spread": doubled,
    "members of other trajectories": lambda members, target: members.roll(1, 1),
}


def test_a_calibrated_ensemble_passes_every_check():
    found = judged()

    assert len(found) == 3 + 4 * len(HORIZONS)
    assert [name for name, reached in found.items() if not reached] == []


def test_a_mutation_turns_every_check_of_an_ensemble_red():
    missed = {
        name: {one for one, reached in judged(change).items() if not reached} for name, change in MUTATIONS.items()
    }

    assert set().union(*missed.values()) == set(judged())
    assert all(f"spread / skill after {steps} steps" in missed["no spread"] for steps in HORIZONS)
    assert all(f"coverage of 90 % after {steps} steps" in missed["doubled spread"] for steps in HORIZONS)
    assert "CRPS of a rollout / error of one forecast" in missed["members of other trajectories"]


def test_check_is_judged_again_when_it_is_read():
    assert Check.model_validate({"name": "it", "value": 2.0, "bound": 1.0, "reached": True}).reached is False


# --- what is evaluated


def test_network_that_cannot_be_evaluated_is_named_rather_than_left_out(smoke):
    with pytest.raises(
        BadInput, match="stage operator: its network is a SteadyPrior, but an evaluation needs a network"
    ):
        Models.of({"operator": steady_prior.build(smoke)})


def test_main_error_is_of_the_operator_or_else_of_the_prior(smoke_result):
    alone = smoke_result.model_copy(update={"rollout": None})

    assert main_error(smoke_result) == smoke_result.rollout.summary["operator"].mean
    assert main_error(alone) == score(smoke_result, DARCY, "steady_prior", "member_nrmse")
    assert math.isnan(main_error(EvaluationResult()))
