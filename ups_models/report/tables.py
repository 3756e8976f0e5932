"""The words and tables of a report: one evaluation in, the same sections for the HTML page and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ups_models.errors import BadInput

SCHEMA_VERSION = 1
Result = Mapping[str, Any]
DASH = "\N{EN DASH}"

MODELS: Mapping[str, str] = {
    "operator": "Operator",
    "diffusion": "Diffusion",
    "consistency_1": "Consistency, 1 step",
    "consistency_2": "Consistency, 2 steps",
    "consistency_3": "Consistency, 3 steps",
    "consistency_4": "Consistency, 4 steps",
    "gaussian": "Gaussian, same scale",
    "persistence": "Persistence",
    "constant_mean": "Constant mean",
    "zero": "Zero",
    "steady_prior": "Steady prior",
    "mean_field": "Mean field",
    "inverse_coefficient": "1 / mean(a)",
}
"""Every model and baseline by its key in the JSON, in the order of the columns."""

DETERMINISTIC = ("operator", "persistence", "constant_mean", "zero")
SAMPLERS = ("diffusion", *(f"consistency_{steps}" for steps in range(1, 5)), "gaussian")
STEADY = ("steady_prior", "mean_field", "inverse_coefficient")

PDEBENCH_LABELS: Mapping[str, str] = {
    "rmse": "RMSE",
    "nrmse": "nRMSE",
    "crmse": "cRMSE (conserved mean)",
    "max_error": "Largest error",
    "brmse": "bRMSE (boundary: no meaning if periodic)",
    "frmse_low": "fRMSE, k < 4",
    "frmse_mid": "fRMSE, 4 ≤ k < 12",
    "frmse_high": "fRMSE, k ≥ 12",
}

CAVEATS = (
    (
        "Intervals are 95 % bootstrap intervals over test trajectories. They say nothing about training: another training "
        "seed gives another model, and its figures can lie outside."
    ),
    (
        "The formulas are PDEBench's, the protocol is not, unless the data files named above are PDEBench's own: PDEBench "
        "feeds ten frames and scores what follows, here one frame goes in and every step counts. Published FNO figures may "
        "stand beside these; they must not be quoted as beaten."
    ),
    (
        "Boundary RMSE (bRMSE) has no meaning on a periodic domain, where no point is a boundary. It is listed because "
        "PDEBench lists it."
    ),
    (
        "Correlation time saturates: a model that never falls under the threshold gets the last time, a lower bound that "
        "cannot rank good models."
    ),
    "A few hard trajectories drive the mean rollout error. Read the median beside it.",
    (
        "A decaying flow comes ever closer to its mean, so late in a rollout even a constant looks good. That is why "
        "persistence, the constant mean and zero stand beside the model."
    ),
    (
        "The Gaussian with the same learned scale costs no network evaluation. A sampler that does not beat it has learned "
        "the width of the uncertainty, but nothing of its shape."
    ),
    (
        "CRPS is the fair estimate, free of bias in the number of members. For the operator alone it is the mean absolute "
        "error. Coverage and calibration error come from ranks: empirical quantiles of few members cover too little."
    ),
)


@dataclass(frozen=True)
class Table:
    """Cells of text; `best` marks (row, column) of the best figure in its row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One heading of the report; `missing` says in words what was not evaluated."""

    key: str
    title: str
    intro: str = ""
    tables: tuple[Table, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """One sentence on the gates; `state` is pass, fail or unknown."""

    state: str
    text: str


@dataclass(frozen=True)
class Measure:
    """A row of a comparison: where each model's figure lies, and which value would be ideal."""

    label: str
    path: str
    ideal: float = 0.0
    interval: str = ""
    instead: Mapping[str, str] | None = None

    def value(self, result: Result, model: str) -> Any:
        """The model's figure, None if there is none."""
        return get_path(result, (self.instead or {}).get(model, self.path).format(model=model))

    def text(self, result: Result, model: str) -> str:
        """The figure, with its interval where there is one."""
        ends = get_path(result, self.interval.format(model=model)) if self.interval else None
        return number(self.value(result, model)) + (f" {interval(ends)}" if ends else "")


FIELD_MEASURES = (
    Measure("One-step nRMSE", "one_step/{model}/nrmse"),
    Measure("One-step mean absolute error", "one_step/{model}/mae"),
    Measure(
        "Rollout nRMSE, mean [95 % interval]", "rollout/summary/{model}/mean", interval="rollout/summary/{model}/ci95"
    ),
    Measure("Rollout nRMSE, median", "rollout/summary/{model}/median"),
    Measure("Rollout VRMSE, median (1 = spatial mean)", "rollout/vrmse/{model}"),
)
ENSEMBLE_MEASURES = (
    Measure("One-step CRPS", "probabilistic/{model}/crps", instead={"operator": "probabilistic/operator/mae"}),
    Measure(
        "One-step nCRPS (in units of the field)",
        "probabilistic/{model}/ncrps",
        instead={"operator": "probabilistic/operator/nmae"},
    ),
    Measure("One-step spread / skill (ideal 1)", "probabilistic/{model}/spread_skill", ideal=1.0),
    Measure(
        "Rollout CRPS", "probabilistic_rollout/{model}/crps", instead={"operator": "probabilistic_rollout/operator/mae"}
    ),
    Measure("Rollout spread / skill (ideal 1)", "probabilistic_rollout/{model}/spread_skill", ideal=1.0),
)
STEADY_MEASURES = (
    Measure(
        "nRMSE (one member, or the guess)",
        "darcy/{model}/nrmse",
        instead={"steady_prior": "darcy/steady_prior/member_nrmse"},
    ),
    Measure("nRMSE of the ensemble mean", "darcy/{model}/ensemble_mean_nrmse"),
)
SAMPLER_COLUMNS: tuple[tuple[str, str], ...] = (
    ("Evaluations", "nfe"),
    ("CRPS", "crps"),
    ("nCRPS", "ncrps"),
    ("Spread / skill", "spread_skill"),
    ("normalised", "spread_skill_normalised"),
    ("Coverage, 50 %", "coverage/50"),
    ("Coverage, 80 %", "coverage/80"),
    ("Coverage, 90 %", "coverage/90"),
    ("Calibration error", "ece"),
    ("nRMSE of mean", "ensemble_mean_nrmse"),
    ("Sample std", "sample_std"),
)


def get_path(tree: Any, path: str) -> Any:
    """The value at a/b/c, None where any part is absent."""
    for key in path.split("/"):
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


def number(value: Any) -> str:
    """Three significant digits; a figure that is absent is a dash, one that is not finite says so."""
    if value is None:
        return DASH
    if isinstance(value, (bool, str, int)):
        return str(value)
    if not math.isfinite(value):
        return f"not finite ({value})"
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        text = f"{value:#.3g}" if abs(value) < 1e3 else f"{value:.0f}"
        return text.rstrip(".")
    return f"{value:.2e}"


def interval(ends: Any) -> str:
    """[low, high], a dash if absent."""
    return f"[{number(ends[0])}, {number(ends[1])}]" if ends else DASH


def seconds(value: float) -> str:
    """93.4 -> 1 min 33 s."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def check_schema(result: Result) -> None:
    """Refuse an evaluation that a newer version wrote."""
    version = result.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise BadInput(
            f"evaluation {result.get('name', '?')}: schema_version {version}, but this version reads "
            f"{SCHEMA_VERSION}. Evaluate again with this version, or report with the one that wrote it."
        )


def verdict(result: Result) -> Verdict:
    """All gates reached, or which were not."""
    gates = result.get("gates") or ()
    if not gates:
        return Verdict("unknown", "No gates in this evaluation: nothing was judged.")
    missed = [gate for gate in gates if not gate.get("reached")]
    if not missed:
        return Verdict("pass", f"{len(gates)} of {len(gates)} gates reached.{_goals(gates)}")
    which = "; ".join(f"{gate.get('name')} is {number(gate.get('value'))}, bound {bound(gate)}" for gate in missed)
    return Verdict("fail", f"{len(missed)} of {len(gates)} gates not reached: {which}.{_goals(gates)}")


def bound(gate: Mapping[str, Any], key: str = "bound") -> str:
    """A gate's bound with its sense, such as ≤ 0.03."""
    if gate.get(key) is None:
        return DASH
    sign = {"<=": "≤", ">=": "≥"}.get(gate.get("sense", ""), gate.get("sense", ""))
    return f"{sign} {number(gate[key])}".strip()


def describe(result: Result) -> tuple[str, ...]:
    """What was evaluated, on what, when: short phrases with their units."""
    facts = (
        ("{} split", result.get("split")),
        ("{} trajectories", result.get("trajectories")),
        ("{} steps", result.get("steps")),
        ("{} members per ensemble", result.get("members")),
        ("seed {}", result.get("seed")),
        ("family {}", get_path(result, "data/family")),
        ("{} points in space", get_path(result, "data/nx")),
        ("{} times", get_path(result, "data/nt")),
        ("time step {} (dimensionless)", get_path(result, "data/dt")),
        ("parameter {}", _joined(get_path(result, "data/parameter"))),
        ("files {}", _joined(get_path(result, "data/files"))),
        ("evaluated {}", result.get("created_at")),
    )
    return tuple(form.format(value) for form, value in facts if value is not None)


def sections(result: Result, status: Mapping[str, str]) -> tuple[Section, ...]:
    """All sections with figures of one evaluation; `status` by stage lets a missing one name its reason."""
    return (
        headline_section(result, status),
        horizon_section(result, status),
        field_section(result, status),
        ensemble_section(result, status),
        steady_section(result, status),
    )


def gate_table(result: Result) -> Table:
    """Each gate with its value, bound and goal."""
    rows = tuple(
        (
            str(gate.get("name", DASH)),
            number(gate.get("value")),
            bound(gate),
            "reached" if gate.get("reached") else "NOT reached",
            bound(gate, "goal"),
            _goal_met(gate),
        )
        for gate in result.get("gates") or ()
    )
    return Table("Gates", ("Gate", "Value", "Bound", "Bound is", "Goal", "Goal is"), rows)


def headline_section(result: Result, status: Mapping[str, str]) -> Section:
    """The figures to read first, each beside its trivial rivals."""
    tables = (
        compare(result, "Field error", FIELD_MEASURES, DETERMINISTIC),
        compare(
            result,
            "Uncertainty",
            ENSEMBLE_MEASURES,
            (*SAMPLERS, "operator"),
            "The operator alone makes one forecast: its CRPS is its mean absolute error.",
        ),
        compare(result, "Steady state (Darcy flow)", STEADY_MEASURES, STEADY),
    )
    missing = _missing(
        result,
        status,
        {"one_step": "operator", "rollout": "operator", "probabilistic": "diff_residual", "darcy": "steady_prior"},
    )
    intro = "Lower is better unless an ideal is named. Bold: the best figure of its row."
    return Section("headline", "Headline figures", intro, _filled(tables), missing)


def horizon_section(result: Result, status: Mapping[str, str]) -> Section:
    """How the rollout error grows, step by step."""
    horizons = get_path(result, "rollout/horizons") or {}
    baselines = [model for model in DETERMINISTIC[1:] if get_path(result, f"rollout/by_horizon/{model}/mean")]
    rows = []
    for step in sorted(horizons, key=int):
        at, index = horizons[step], int(step) - 1
        rivals = (_at(get_path(result, f"rollout/by_horizon/{model}/mean"), index) for model in baselines)
        time = _at(get_path(result, "rollout/times"), index)
        own = (number(at.get("mean")), interval(at.get("ci95")), number(at.get("median")))
        rows.append((str(step), number(time), *own, *map(number, rivals)))
    columns = ("Step", "Time", "Mean", "95 % interval", "Median", *(f"{MODELS[m]}, mean" for m in baselines))
    table = Table("Rollout nRMSE of the operator by horizon", columns, tuple(rows))
    return Section(
        "horizon", "Error by horizon", "", _filled([table]), _missing(result, status, {"rollout": "operator"})
    )


def field_section(result: Result, status: Mapping[str, str]) -> Section:
    """PDEBench's metrics over the whole rollout, and how long it stays correlated."""
    measures = [Measure(label, f"rollout/pdebench/{{model}}/{key}") for key, label in PDEBENCH_LABELS.items()]
    tables = (
        compare(result, "PDEBench metrics over the rollout", measures, DETERMINISTIC),
        correlation_table(result),
    )
    return Section("field", "Error by scale", "", _filled(tables), _missing(result, status, {"rollout": "operator"}))


def correlation_table(result: Result) -> Table:
    """First times under each threshold; says where the figure is only a lower bound."""
    times: Sequence[float] = get_path(result, "rollout/times") or ()
    rows = []
    for threshold, time in sorted((get_path(result, "rollout/correlation_time") or {}).items()):
        saturated = bool(times) and time is not None and time >= times[-1]
        remark = "the last time: a lower bound" if saturated else "falls under it"
        rows.append((threshold, number(time), remark))
    return Table("Correlation time of the operator (dimensionless)", ("Threshold", "Time", "Remark"), tuple(rows))


def ensemble_section(result: Result, status: Mapping[str, str]) -> Section:
    """Everything known of each sampler, at one step and along the rollout."""
    tables = (
        by_model(
            result,
            "One step",
            "probabilistic",
            models=SAMPLERS,
            columns=SAMPLER_COLUMNS,
            note="Evaluations: of the network, per sample. Spread / skill and coverage: ideal 1 and the level itself.",
        ),
        by_model(
            result,
            "Rollout",
            "probabilistic_rollout",
            models=("operator", *SAMPLERS),
            columns=(("Mean absolute error", "mae"), *SAMPLER_COLUMNS[1:]),
        ),
    )
    missing = _missing(result, status, {"probabilistic": "diff_residual", "probabilistic_rollout": "diff_residual"})
    if not missing and not any(get_path(result, f"probabilistic/consistency_{n}") for n in (1, 2, 4)):
        missing = (_reason("consistency_distill", status),)
    return Section("ensemble", "Calibration", "", _filled(tables), missing)


def steady_section(result: Result, status: Mapping[str, str]) -> Section:
    """The prior of steady states against the two trivial guesses."""
    columns = (("CRPS", "crps"), ("Mean absolute error of the mean", "mae_of_mean"), *SAMPLER_COLUMNS[3:9])
    tables = (
        compare(result, "Error against the trivial guesses", STEADY_MEASURES, STEADY),
        by_model(result, "Ensemble", "darcy", models=STEADY[:1], columns=columns),
    )
    return Section(
        "darcy", "Steady states (Darcy flow)", "", _filled(tables), _missing(result, status, {"darcy": "steady_prior"})
    )


def compare(result: Result, title: str, measures: Iterable[Measure], models: Sequence[str], note: str = "") -> Table:
    """Measures down, models across; models and measures without any figure are left out."""
    measures = [m for m in measures if any(m.value(result, model) is not None for model in models)]
    models = [model for model in models if any(m.value(result, model) is not None for m in measures)]
    rows = tuple((m.label, *(m.text(result, model) for model in models)) for m in measures)
    best = frozenset(
        (i, column + 1)
        for i, m in enumerate(measures)
        for column in _best([m.value(result, k) for k in models], m.ideal)
    )
    return Table(title, ("", *(MODELS[model] for model in models)), rows, best, note)


def by_model(
    result: Result,
    title: str,
    part: str,
    *,
    models: Sequence[str],
    columns: Sequence[tuple[str, str]],
    note: str = "",
) -> Table:
    """Models down, figures across; columns without any figure are left out."""
    present = [model for model in models if get_path(result, f"{part}/{model}")]
    columns = [
        (label, key)
        for label, key in columns
        if any(get_path(result, f"{part}/{m}/{key}") is not None for m in present)
    ]
    rows = tuple(
        (MODELS[model], *(number(get_path(result, f"{part}/{model}/{key}")) for _, key in columns)) for model in present
    )
    return Table(title, ("", *(label for label, _ in columns)), rows, note=note)


def checkpoint_table(result: Result) -> Table:
    """Which weights gave these figures."""
    rows = tuple(
        (stage, str(entry.get("file", DASH)), str(entry.get("sha256", DASH)))
        for stage, entry in (result.get("checkpoints") or {}).items()
    )
    return Table("Checkpoints", ("Role", "File", "SHA-256"), rows)


def timing_table(timings: Sequence[Mapping[str, Any]]) -> Table:
    """How long each stage took."""
    rows = [_timing(row) for row in timings]
    total = sum(row.get("seconds") or 0 for row in timings)
    if len(rows) > 1:
        rows.append(("Sum", "", seconds(total), "", ""))
    return Table("Time per stage", ("Stage", "Status", "Time", "Steps", "Per step"), tuple(rows))


def _timing(row: Mapping[str, Any]) -> tuple[str, ...]:
    spent, steps = row.get("seconds"), row.get("steps")
    per_step = f"{1000 * spent / steps:.1f} ms" if spent and steps else DASH
    time = DASH if spent is None else seconds(spent)
    return str(row.get("stage", DASH)), str(row.get("status", DASH)), time, number(steps), per_step


def _goals(gates: Sequence[Mapping[str, Any]]) -> str:
    """Goals lie beyond the gates: how many were met, if there are any."""
    met = [state for state in map(_goal_met, gates) if state != DASH]
    return f" Goals beyond them: {met.count('reached')} of {len(met)}." if met else ""


def _goal_met(gate: Mapping[str, Any]) -> str:
    value, goal = gate.get("value"), gate.get("goal")
    if value is None or goal is None:
        return DASH
    met: Mapping[str, Callable[[], bool]] = {"<=": lambda: value <= goal, ">=": lambda: value >= goal}
    return "reached" if met.get(gate.get("sense", ""), lambda: False)() else "not reached"


def _best(values: Sequence[Any], ideal: float) -> list[int]:
    """Where the values nearest to the ideal stand, ties as printed; nowhere if there is nothing to compare."""
    known = {i: v for i, v in enumerate(values) if v is not None and math.isfinite(v)}
    if len(known) < 2:
        return []
    nearest = number(min(known.values(), key=lambda v: abs(v - ideal)))
    return [i for i, v in known.items() if number(v) == nearest]


def _missing(result: Result, status: Mapping[str, str], needs: Mapping[str, str]) -> tuple[str, ...]:
    """One sentence for each stage without which a part of the evaluation is absent."""
    return tuple(dict.fromkeys(_reason(stage, status) for part, stage in needs.items() if not result.get(part)))


def _reason(stage: str, status: Mapping[str, str]) -> str:
    state = status.get(stage)
    if state is None:
        return f"Not evaluated: {stage} is disabled or has not run."
    if state == "completed":
        return f"Not evaluated: {stage} is completed, but this evaluation has no figures of it."
    return f"Not evaluated: {stage} is {state}."


def _filled(tables: Iterable[Table]) -> tuple[Table, ...]:
    return tuple(table for table in tables if table.rows)


def _at(values: Any, index: int) -> Any:
    return values[index] if values and index < len(values) else None


def _joined(values: Any) -> str | None:
    if values is None:
        return None
    return ", ".join(map(str, values)) if isinstance(values, (list, tuple)) else str(values)
