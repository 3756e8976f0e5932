"""Runs beside each other: a column for each config, whose seeds are taken together."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flows.cli.views.config import leaves
from flows.cli.views.tables import aligned
from tasks.services.stages.runs import RunSummary
from ups_models.evaluation.parts import DARCY, ENSEMBLES, MODELS, ONE_STEP, ROLLOUT, ROLLOUT_ENSEMBLES, SCALED, Part
from ups_models.evaluation.registry import metrics_in
from ups_models.evaluation.result import EvaluationResult
from ups_models.reading import parse_yaml
from ups_models.report.model import Table
from ups_models.stages.fingerprint import APART
from ups_models.wording import plain, shortened

SHOWN: Sequence[tuple[Part, tuple[str, ...]]] = (
    (ONE_STEP, ("operator",)),
    (ROLLOUT, ("operator", "persistence")),
    (SCALED, ("operator",)),
    (ENSEMBLES, ("diffusion", "consistency_1", "consistency_2")),
    (ROLLOUT_ENSEMBLES, ("diffusion", "consistency_1")),
    (DARCY, ("steady_prior",)),
)
"""Whose headline metrics are compared, in each part of a result."""
NO_OTHER_TRAINING = frozenset({"seed", *APART})
"""Parts of a config that make no other training of it: a seed is another sample of the same."""
EVALUATED = ("split", "seed", "trajectories", "members", "steps", "given_frames")
"""What makes another evaluation: its metrics are no sample of the same."""


def comparison(runs: Sequence[RunSummary]) -> str:
    """The tables below as text."""
    metrics, *others = comparison_tables(runs)
    problems = sorted({one.result.data.family for one in runs if one.result is not None and one.result.data})
    caution = [f"Of different problems, whose figures are no scale for each other: {', '.join(problems)}", ""]
    text = [*(caution if len(problems) > 1 else []), *aligned([metrics.columns, *metrics.rows])]
    for table in others:
        text += ["", f"{table.title}:", *aligned(table.rows)]
    return "\n".join(text)


def comparison_tables(runs: Sequence[RunSummary]) -> tuple[Table, ...]:
    """Headline metrics down, configs across; of several seeds the mean, with the smallest and the largest value.

    Of several configs, also the keys in which they differ.
    """
    groups = _groups(runs)
    columns = [[dict(_figures(one.result)) for one in group if one.result is not None] for group in groups]
    labels = list(dict.fromkeys(label for column in columns for found in column for label in found))
    names = ("", *(_name(group) for group in groups))
    rows = tuple((label, *(_cell(column, label) for column in columns)) for label in labels)
    metrics = Table("Headline metrics", names, rows)
    return (metrics, Table("The configs differ in", names, _differences(groups))) if len(groups) > 1 else (metrics,)


def _groups(runs: Sequence[RunSummary]) -> list[list[RunSummary]]:
    """Runs of one config that were evaluated alike; the same weights once, however often they are named."""
    found: dict[str, dict[str, RunSummary]] = {}
    for one in runs:
        same = found.setdefault(json.dumps(_config(one), sort_keys=True), {})
        same.setdefault(_sample(one), one)
    return [list(same.values()) for same in found.values()]


def _sample(one: RunSummary) -> str:
    """Seed and weights of a run."""
    files = one.result.checkpoints.values() if one.result is not None else ()
    return json.dumps([_trained(one).get("seed"), *sorted(file.sha256 for file in files)])


def _trained(one: RunSummary) -> dict[str, Any]:
    """The config of the weights."""
    whole = parse_yaml(one.result.config_yaml) if one.result is not None else None
    return whole if isinstance(whole, dict) else {}


def _config(one: RunSummary) -> dict[str, Any]:
    """What it was trained with, less what makes no other training of it, and what it was evaluated on."""
    if one.result is None:
        return {}
    times = one.result.rollout.times if one.result.rollout is not None else ()
    evaluated = {name: getattr(one.result, name) for name in EVALUATED} | {"times": len(times)}
    return {key: value for key, value in _trained(one).items() if key not in NO_OTHER_TRAINING} | {
        "evaluated": evaluated
    }


def _figures(result: EvaluationResult) -> Iterator[tuple[str, float]]:
    for part, models in SHOWN:
        for metric in metrics_in(part):
            for model in models:
                value = part.scores(result).get(model, {}).get(metric.key)
                if part in metric.headline and value is not None:
                    yield f"{part.title} {metric.label}, {MODELS[model]}".strip(), value


def _name(group: Sequence[RunSummary]) -> str:
    more = f" and {len(group) - 1} more" if len(group) > 1 else ""
    return f"{plain(group[0].root)}{more}"


def _cell(column: Sequence[Mapping[str, float]], label: str) -> str:
    values = [found[label] for found in column if label in found]
    if not values:
        return "-"
    range_ = f" [{min(values):.3g}, {max(values):.3g}]" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3g}{range_}"


def _differences(groups: Sequence[Sequence[RunSummary]]) -> tuple[tuple[str, ...], ...]:
    """The keys in which the configs differ, and their values."""
    configs = [dict(leaves(_config(group[0]))) for group in groups]
    keys = [
        key
        for key in dict.fromkeys(key for one in configs for key in one)
        if len({str(one.get(key)) for one in configs}) > 1
    ]
    return tuple((key, *(shortened(one.get(key, "-")) for one in configs)) for key in keys)
