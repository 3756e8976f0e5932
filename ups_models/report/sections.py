"""The sections of a report: one evaluation in, the same tables for the HTML page and for Markdown."""

from collections.abc import Iterable, Mapping

from ups_models.evaluation.parts import (
    DARCY,
    DETERMINISTIC,
    ENSEMBLE_HORIZON,
    ENSEMBLES,
    MODELS,
    ONE_STEP,
    PDEBENCH,
    ROLLOUT,
    ROLLOUT_ENSEMBLES,
    SAMPLERS,
    SCALED,
    STEADY,
    STUDENTS,
    Part,
)
from ups_models.evaluation.registry import metrics_in
from ups_models.evaluation.result import EvaluationResult, Rollout
from ups_models.report.model import Section, Table
from ups_models.report.tables import (
    Row,
    by_horizon,
    by_model,
    compare,
    correlation_table,
    peer_table,
    row_of,
    speed_table,
)
from ups_models.report.words import interval, number

OF_ONE_MEMBER = "The prior's nRMSE is that of one member."
NO_ROLLOUTS = ("Not evaluated: ensemble rollouts; this evaluation asked for none (ensemble_trajectories: 0).",)
NO_SOLVER = ("Not measured: seconds beside the solver's (solver_trajectories of an evaluation of a run's operator).",)
Status = Mapping[str, str]
"""Of each stage, so that what is missing can be given its reason."""


def sections(result: EvaluationResult, status: Status) -> tuple[Section, ...]:
    """All sections with metrics of one evaluation."""
    return (
        headline_section(result, status),
        horizon_section(result, status),
        field_section(result, status),
        ensemble_section(result, status),
        steady_section(result, status),
        speed_section(result),
    )


def headline_section(result: EvaluationResult, status: Status) -> Section:
    """The metrics to read first, each beside its trivial rivals."""
    tables = (
        compare("Field error", _headline(result, ONE_STEP, ROLLOUT, SCALED), DETERMINISTIC),
        compare(
            "Uncertainty",
            _headline(result, ENSEMBLES, ROLLOUT_ENSEMBLES),
            (*SAMPLERS, "operator"),
            "The operator alone makes one forecast: its CRPS is its mean absolute error.",
        ),
        compare("Steady state (Darcy flow)", _headline(result, DARCY), STEADY, OF_ONE_MEMBER),
    )
    missing = _missing(
        status,
        operator=bool(result.one_step and result.rollout),
        diff_residual=result.probabilistic is not None,
        steady_prior=result.darcy is not None,
    )
    intro = "Lower is better unless an ideal is named. Bold: the best value of its row."
    return Section("headline", "Headline metrics", intro, _filled(tables), missing)


def horizon_section(result: EvaluationResult, status: Status) -> Section:
    """How the rollout error grows, step by step."""
    rollout = result.rollout or Rollout()
    baselines = [model for model in DETERMINISTIC[1:] if model in rollout.by_horizon]
    rows = []
    for step, at in sorted(rollout.horizons.items(), key=lambda item: int(item[0])):
        index = int(step) - 1
        columns = (rollout.times, *(rollout.by_horizon[model].mean for model in baselines))
        time, *rivals = (number(values[index] if index < len(values) else None) for values in columns)
        rows.append((step, time, number(at.mean), interval(at.ci95), number(at.median), *rivals))
    names = ("Step", "Time", "Mean", "95 % interval", "Median", *(f"{MODELS[model]}, mean" for model in baselines))
    table = Table("Rollout nRMSE of the operator by horizon", names, tuple(rows))
    missing = _missing(status, operator=result.rollout is not None)
    return Section("horizon", "Error by horizon", "", _filled([table]), missing)


def field_section(result: EvaluationResult, status: Status) -> Section:
    """PDEBench's metrics over the whole rollout, and how long it stays correlated."""
    rows = (row_of(result, PDEBENCH, metric) for metric in metrics_in(PDEBENCH))
    tables = (
        peer_table(result),
        compare("PDEBench metrics over the rollout", rows, DETERMINISTIC),
        correlation_table(result),
    )
    missing = _missing(status, operator=result.rollout is not None)
    return Section("field", "Error by scale", "", _filled(tables), missing)


def ensemble_section(result: EvaluationResult, status: Status) -> Section:
    """Every metric of each sampler, at one step and along the rollout."""
    tables = (
        by_model("One step", result, ENSEMBLES, SAMPLERS),
        by_model("Rollout", result, ROLLOUT_ENSEMBLES, ("operator", *SAMPLERS)),
        by_horizon("Rollout, by horizon", result, ENSEMBLE_HORIZON),
    )
    ensembles = result.probabilistic
    missing = _missing(status, diff_residual=ensembles is not None)
    if ensembles is not None:
        missing = _missing(status, consistency_distill=any(student in ensembles.samplers for student in STUDENTS))
        missing += NO_ROLLOUTS if result.probabilistic_rollout is None else ()
    return Section("ensemble", "Calibration", "", _filled(tables), missing)


def steady_section(result: EvaluationResult, status: Status) -> Section:
    """The prior of steady states against the two trivial guesses."""
    tables = (
        compare("Error against the trivial guesses", _headline(result, DARCY), STEADY, OF_ONE_MEMBER),
        by_model("Ensemble", result, DARCY, STEADY[:1]),
    )
    missing = _missing(status, steady_prior=result.darcy is not None)
    return Section("darcy", "Steady states (Darcy flow)", "", _filled(tables), missing)


def speed_section(result: EvaluationResult) -> Section:
    """Seconds of the operator beside the solver's."""
    missing = NO_SOLVER if result.speed is None else ()
    return Section("speed", "Speed", "", _filled([speed_table(result)]), missing)


def _headline(result: EvaluationResult, *parts: Part) -> list[Row]:
    return [row_of(result, part, metric) for part in parts for metric in metrics_in(part) if part in metric.headline]


def _missing(status: Status, **present: bool) -> tuple[str, ...]:
    """One sentence for each stage of which the evaluation has nothing."""
    return tuple(_reason(stage, status) for stage, is_there in present.items() if not is_there)


def _reason(stage: str, status: Status) -> str:
    state = status.get(stage)
    if state is None:
        return f"Not evaluated: {stage} is disabled or has not run."
    if state == "completed":
        return f"Not evaluated: {stage} is completed, but this evaluation has no metrics of it."
    return f"Not evaluated: {stage} is {state}."


def _filled(tables: Iterable[Table]) -> tuple[Table, ...]:
    return tuple(table for table in tables if table.rows)
