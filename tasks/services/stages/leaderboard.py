"""The points of a sweep in order of their error: mean and spread over seeds, paired differences, and what they cost."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.services.stages.runs import RunSummary
from ups_models.files import write_text
from ups_models.report.model import Table

FILE = "leaderboard.json"
"""In the folder of a sweep."""
LEVEL = 0.95
"""Of the intervals."""


@dataclass(frozen=True)
class LeaderboardRow:
    """One point: the main error by seed, what is not there, and the difference to the best point on the same seeds."""

    point: str
    errors: Mapping[int, float]
    missing: Mapping[int, str]
    seconds: float
    behind: tuple[float, float, float] | None = None
    """Mean of error - error of the best, and its 95 % interval."""

    @property
    def mean(self) -> float:
        """Over seeds; infinite where there is none."""
        return statistics.fmean(self.errors.values()) if self.errors else math.inf

    @property
    def spread(self) -> float:
        """Standard deviation over seeds; not a number where there is one."""
        return statistics.stdev(self.errors.values()) if len(self.errors) > 1 else math.nan


def leaderboard(runs: Mapping[tuple[str, int], RunSummary | str]) -> list[LeaderboardRow]:
    """The points in order; for each point and seed the run, or in words why there is none."""
    points = list(dict.fromkeys(point for point, _ in runs))
    found = [_row_of(point, {seed: run for (one, seed), run in runs.items() if one == point}) for point in points]
    found.sort(key=lambda one: (len(one.missing), one.mean))
    best = found[0]
    return [best, *(_behind(one, best) for one in found[1:])]


def _row_of(point: str, runs: Mapping[int, RunSummary | str]) -> LeaderboardRow:
    errors, missing, seconds = {}, {}, 0.0
    for seed, run in runs.items():
        if isinstance(run, str):
            missing[seed] = run
            continue
        seconds += sum(record.seconds or 0.0 for record in run.status.stages.values())
        if run.error is None:
            missing[seed] = run.state
        elif not math.isfinite(run.error):
            missing[seed] = "diverged: its error is not finite"
        else:
            errors[seed] = run.error
    return LeaderboardRow(point, errors, missing, seconds)


def _behind(one: LeaderboardRow, best: LeaderboardRow) -> LeaderboardRow:
    pairs = [one.errors[seed] - best.errors[seed] for seed in one.errors if seed in best.errors]
    if not pairs:
        return one
    mean = statistics.fmean(pairs)
    n = len(pairs)
    half = student_t(n - 1) * statistics.stdev(pairs) / math.sqrt(n) if n > 1 else math.inf
    return LeaderboardRow(one.point, one.errors, one.missing, one.seconds, (mean, mean - half, mean + half))


def student_t(freedom: int) -> float:
    """The quantile that LEVEL of Student's t lies within, on both sides; to 1 % from three degrees of freedom on.

    Exact for one and two; else Fisher & Cornish 1960, the expansion in 1 / freedom.
    """
    tail = (1 + LEVEL) / 2
    if freedom == 1:
        return math.tan(math.pi * (tail - 0.5))
    if freedom == 2:
        return LEVEL * math.sqrt(2 / (1 - LEVEL**2))
    z = statistics.NormalDist().inv_cdf(tail)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(z + sum(term / freedom**power for power, term in enumerate(terms, 1)))


def table_of(rows: Sequence[LeaderboardRow]) -> Table:
    """As text."""
    lines = []
    for number, one in enumerate(rows, 1):
        spread = "" if math.isnan(one.spread) else f" ± {one.spread:.2g}"
        error = f"{one.mean:.4g}{spread}" if one.errors else "-"
        gaps = ", ".join(f"seed {seed}: {why}" for seed, why in one.missing.items())
        behind = "" if one.behind is None else "{:+.2g} [{:+.2g}, {:+.2g}]".format(*one.behind)
        lines.append((str(number), one.point, error, str(len(one.errors)), behind, f"{one.seconds / 60:.1f}", gaps))
    columns = ("", "point", "error, mean ± sd", "seeds", "behind the best [95 %]", "minutes", "missing")
    note = "The error is the rollout's nRMSE, or the member nRMSE of a steady prior. Differences are paired by seed."
    return Table("Leaderboard", columns, tuple(lines), note=note)


def write_leaderboard(path: Path, rows: Sequence[LeaderboardRow]) -> None:
    """As JSON, for other programs."""
    content = [{**asdict(one), "mean": one.mean if one.errors else None, "behind": _known(one.behind)} for one in rows]
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _known(interval: tuple[float, float, float] | None) -> list[float | None] | None:
    """With one seed the bounds are infinite, which JSON has no number for."""
    return None if interval is None else [value if math.isfinite(value) else None for value in interval]
