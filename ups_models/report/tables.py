"""Tables: metrics down and models across, models down and metrics across, and the small ones around them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ups_models.evaluation.parts import CORRELATION, MODELS, Part
from ups_models.evaluation.registry import Metric, metrics_in
from ups_models.evaluation.result import EvaluationResult, Speed
from ups_models.peers import PEERS
from ups_models.report.model import Table, Timing
from ups_models.report.words import DASH, bound, bounds, interval, number, seconds

PEER_NOTE = (
    "The same data, steps of unroll, augmentation, conserved means and optimiser; as many steps of a peer as last as "
    "long as the operator's training."
)


@dataclass(frozen=True)
class Row:
    """A row of a comparison: the value of each model, and which one would be ideal."""

    label: str
    values: Mapping[str, float]
    ideal: float = 0.0
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def text(self, model: str) -> str:
        """The value of one model, with its interval where there is one."""
        ends = self.intervals.get(model)
        return number(self.values.get(model)) + (f" {interval(ends)}" if ends else "")

    def best(self, models: Sequence[str]) -> list[int]:
        """Where the values nearest to the ideal stand, ties as printed; nowhere if there is nothing to compare."""
        found = {i: self.values[model] for i, model in enumerate(models) if model in self.values}
        known = {i: value for i, value in found.items() if math.isfinite(value)}
        if len(known) < 2:
            return []
        nearest = number(min(known.values(), key=self._distance))
        return [i for i, value in known.items() if number(value) == nearest]

    def _distance(self, value: float) -> float:
        return -value if self.ideal == math.inf else abs(value - self.ideal)


def row_of(result: EvaluationResult, part: Part, metric: Metric[Any]) -> Row:
    """One metric of every model in a part of the result."""
    known = {
        model: scores.get(metric.key, scores.get(metric.fallback)) for model, scores in part.scores(result).items()
    }
    values = {model: value for model, value in known.items() if value is not None}
    intervals = part.intervals(result) if metric.interval else {}
    label = f"{part.title} {label_of(metric)}{' [95 % interval]' if intervals else ''}"
    return Row(_capitalised(label.strip()), values, metric.ideal, intervals)


def label_of(metric: Metric[Any]) -> str:
    """What it is called, with its ideal where that is neither 0 nor infinite."""
    return metric.label + (f" (ideal {metric.ideal:g})" if math.isfinite(metric.ideal) and metric.ideal else "")


def compare(title: str, rows: Iterable[Row], models: Sequence[str], note: str = "") -> Table:
    """Metrics down, models across; models and metrics without any value are left out."""
    rows = [row for row in rows if any(model in row.values for model in models)]
    models = [model for model in models if any(model in row.values for row in rows)]
    cells = tuple((row.label, *map(row.text, models)) for row in rows)
    best = frozenset((i, column + 1) for i, row in enumerate(rows) for column in row.best(models))
    return Table(title, ("", *(MODELS[model] for model in models)), cells, best, note)


def by_model(title: str, result: EvaluationResult, part: Part, models: Sequence[str]) -> Table:
    """Every metric of the part down, models across; what is without any value is left out."""
    scores = {model: known for model, known in part.scores(result).items() if model in models and known}
    there = [model for model in models if model in scores]
    rows = tuple(
        (_capitalised(label_of(metric)), *(number(scores[model].get(metric.key)) for model in there))
        for metric in metrics_in(part)
        if any(metric.key in known for known in scores.values())
    )
    return Table(title, ("", *(MODELS[model] for model in there)), rows)


def by_horizon(title: str, result: EvaluationResult, part: Part) -> Table:
    """Metrics across; every sampler after each number of steps down."""
    scores = part.scores(result)
    columns = [metric for metric in metrics_in(part) if any(metric.key in known for known in scores.values())]
    rows = []
    for place, known in scores.items():
        model, _, steps = place.split("/")
        rows.append((MODELS[model], steps, *(number(known.get(metric.key)) for metric in columns)))
    return Table(title, ("", "Steps", *(_capitalised(label_of(metric)) for metric in columns)), tuple(rows))


def check_table(result: EvaluationResult) -> Table:
    """Each check with its value, its bound and its stretch goal."""
    rows = []
    for check in result.checks:
        goal = check.stretch_goal
        met = DASH if goal is None else "reached" if check.meets(goal) else "not reached"
        kept = "reached" if check.reached else "NOT reached"
        rows.append((check.name, number(check.value), bounds(check), kept, bound(check, goal), met))
    return Table("Checks", ("Check", "Value", "Bound", "Bound is", "Stretch goal", "Stretch goal is"), tuple(rows))


def correlation_table(result: EvaluationResult) -> Table:
    """First times under each threshold; says where the value is only a lower bound."""
    times = result.rollout.times if result.rollout else ()
    rows = []
    for key, time in sorted(CORRELATION.scores(result).get("operator", {}).items()):
        saturated = bool(times) and time >= times[-1]
        remark = "the last time: a lower bound" if saturated else "falls under it"
        rows.append((key.partition("/")[2], number(time), remark))
    return Table("Correlation time of the operator (dimensionless)", ("Threshold", "Time", "Remark"), tuple(rows))


def peer_table(result: EvaluationResult) -> Table:
    """The operator, and each peer that was trained for as long."""
    columns = (
        "",
        "nRMSE, mean",
        "95 % interval",
        "Median",
        "One step",
        "Parameters",
        "Steps",
        "s a step",
        "GFLOP a step",
    )
    if not result.peers or result.rollout is None or result.network is None:
        return Table("Rollout of peers at equal compute", columns, ())
    own, one_step = result.rollout.summary["operator"], result.one_step["operator"]["nrmse"]
    first = next(iter(result.peers.values()))
    rows = [
        (
            MODELS["operator"],
            *(number(own.mean), interval(own.ci95), number(own.median), number(one_step)),
            f"{result.network.parameters:,}",
            DASH if first.operator_steps is None else number(first.operator_steps),
            *(number(first.operator_seconds_per_step), number(first.operator_gflops)),
        )
    ]
    rows += [
        (
            PEERS[name].label,
            *(number(it.mean), interval(it.ci95), number(it.median), number(it.one_step)),
            *(f"{it.parameters:,}", number(it.steps), number(it.seconds_per_step), number(it.gflops)),
        )
        for name, it in result.peers.items()
    ]
    return Table("Rollout of peers at equal compute", columns, tuple(rows), note=PEER_NOTE)


def speed_table(result: EvaluationResult) -> Table:
    """The operator alone and in batches, the solver on each grid, and what follows from both."""
    title, columns = "Seconds of one trajectory", ("", "nRMSE, mean", "s", "Of the operator in batches")
    found = result.speed
    if found is None:
        return Table(title, columns, ())

    def row(label: str, error: float, spent: float) -> tuple[str, ...]:
        return label, number(error), number(spent), number(spent / found.batched_s)

    rows = [
        row("Operator, alone", found.error, found.alone_s),
        row(f"Operator, in batches of {found.batch}", found.error, found.batched_s),
        *(row(f"Solver, {one.points} points along an axis", one.error, one.trajectory_s) for one in found.solver),
    ]
    return Table(title, columns, tuple(rows), note=_breakeven(found))


def _breakeven(found: Speed) -> str:
    where = (
        "both on one thread" if found.device == "cpu" else f"the operator on {found.device}, the solver on one thread"
    )
    equal = "no grid of the solver" if found.equal is None else f"the solver on {found.equal.points} points"
    cost = f"{seconds(found.data_s)} of data and {seconds(found.training_s)} of training"
    pays = "never pay" if math.isinf(found.breakeven) else f"have paid after {found.breakeven:.0f} forecasts in batches"
    return (
        f"{found.trajectories} trajectories, {where}. It is {equal} that errs no more than the operator; {cost} {pays}."
    )


def checkpoint_table(result: EvaluationResult) -> Table:
    """Which weights were evaluated."""
    rows = tuple((stage, entry.file, entry.sha256) for stage, entry in result.checkpoints.items())
    return Table("Checkpoints", ("Role", "File", "SHA-256"), rows)


def timing_table(timings: Sequence[Timing]) -> Table:
    """How long each stage took."""
    rows = [_timing(timing) for timing in timings]
    if len(rows) > 1:
        rows.append(("Sum", "", seconds(sum(timing.seconds or 0 for timing in timings)), "", ""))
    return Table("Time per stage", ("Stage", "Status", "Time", "Steps", "Per step"), tuple(rows))


def _timing(timing: Timing) -> tuple[str, ...]:
    spent, steps = timing.seconds, timing.steps
    per_step = f"{1000 * spent / steps:.1f} ms" if spent and steps else DASH
    return timing.stage, timing.status, DASH if spent is None else seconds(spent), number(steps), per_step


def _capitalised(text: str) -> str:
    """`nRMSE` and `nCRPS` keep their small letter."""
    return text[:1].upper() + text[1:] if text[1:2].islower() else text
