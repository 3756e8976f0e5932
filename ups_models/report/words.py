"""The words of a report: numbers as text, what was evaluated, how the checks ended, and what to keep in mind."""

import math
from collections.abc import Sequence

from ups_models.evaluation.result import Check, DataFacts, EvaluationResult, NetworkFacts
from ups_models.report.model import Verdict

DASH = "\N{EN DASH}"
SIGNS = {"<=": "≤", ">=": "≥"}

CAVEATS = (
    (
        "Intervals are 95 % bootstrap intervals over test trajectories. They say nothing about training: another training "
        "seed gives another model, and its metrics can lie outside."
    ),
    (
        "The formulas are PDEBench's, the protocol is not, unless ten frames are known and the data files named above are "
        "PDEBench's own: PDEBench feeds ten frames and scores what follows; with one, every step counts. Published FNO "
        "results may stand beside these; they must not be quoted as beaten."
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


def number(value: float | str | None) -> str:
    """Three significant digits; a number that is absent is a dash, one that is not finite says so."""
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


def interval(ends: tuple[float, float] | None) -> str:
    """[low, high], a dash if absent."""
    return f"[{number(ends[0])}, {number(ends[1])}]" if ends else DASH


def seconds(value: float) -> str:
    """93.4 -> 1 min 33 s."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def bound(check: Check, limit: float | None) -> str:
    """A limit with the check's sense, such as ≤ 0.03."""
    return DASH if limit is None else f"{SIGNS[check.sense]} {number(limit)}"


def bounds(check: Check) -> str:
    """The bound of a check, or both, such as 0.85 to 1.2."""
    return bound(check, check.bound) if check.lower is None else f"{number(check.lower)} to {number(check.bound)}"


def verdict(result: EvaluationResult) -> Verdict:
    """All checks reached, or which were not."""
    checks = result.checks
    if not checks:
        return Verdict("unknown", "No checks in this evaluation: nothing was judged.")
    missed = [check for check in checks if not check.reached]
    stretch = [check.meets(check.stretch_goal) for check in checks if check.stretch_goal is not None]
    beyond = f" Stretch goals: {sum(stretch)} of {len(stretch)} reached." if stretch else ""
    if not missed:
        return Verdict("pass", f"{len(checks)} of {len(checks)} checks reached.{beyond}")
    which = "; ".join(f"{check.name} is {number(check.value)}, bound {bounds(check)}" for check in missed)
    return Verdict("fail", f"{len(missed)} of {len(checks)} checks not reached: {which}.{beyond}")


def describe(result: EvaluationResult) -> tuple[str, ...]:
    """What was evaluated, on what, when: short phrases with their units."""
    data = result.data
    facts = (
        ("descent unknown: {}", _joined(result.unknown_descents or ())),
        ("{} split", result.split),
        ("{} trajectories", result.trajectories),
        ("{} steps", result.steps),
        ("from the last of {} known frames", result.given_frames),
        ("{} members per ensemble", result.members),
        ("seed {}", result.seed),
        ("{}", data and data.family),
        ("channels {}", data and _joined(data.channels or ())),
        ("{} points in space", data and _grid(data)),
        ("{} times", data and data.nt),
        ("time step {} (dimensionless)", data and data.dt),
        ("parameter {}", data and _parameters(data)),
        ("{}", result.network and _network(result.network)),
        ("files {}", data and _joined(data.files)),
        ("evaluated {}", result.created_at),
    )
    return tuple(form.format(value) for form, value in facts if value is not None)


def _network(facts: NetworkFacts) -> str:
    return (
        f"operator of {facts.parameters:,} parameters, latent state of {facts.latent} numbers "
        f"({number(facts.compression)} x fewer than a field), reconstruction nRMSE {number(facts.reconstruction)}, "
        f"{1000 * facts.seconds:.3g} ms a step and field"
    )


def _grid(data: DataFacts) -> str:
    return " x ".join(map(str, data.grid or (data.nx,)))


def _parameters(data: DataFacts) -> str | None:
    named = [f"{name}={_joined(values)}" for name, values in (data.parameters or {}).items()]
    return ", ".join(named) or _joined(data.parameter)


def _joined(values: Sequence[object]) -> str | None:
    return ", ".join(map(str, values)) or None
