"""What a campaign counts, and the table that it prints."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field, fields


@dataclass
class Counts:
    """Counts of one run, or the sum over many; every field adds up."""

    kills: int = 0
    kills_of_flows: int = 0
    kills_under_a_worker: int = 0
    terms: int = 0
    terms_of_flows: int = 0
    resumes: int = 0
    runs: int = 0
    pairs: int = 0
    identical: int = 0
    flips: int = 0
    finished_flips: int = 0
    finished_flips_noticed: int = 0
    points: int = 0
    uploads_killed: int = 0
    uploads_restored: int = 0
    steps_lost: list[int] = field(default_factory=list)
    term_steps_lost: list[int] = field(default_factory=list)
    restart_forked_s: list[float] = field(default_factory=list)
    restart_flow_s: list[float] = field(default_factory=list)
    restart_worker_s: list[float] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)

    def add(self, other: Counts) -> None:
        """Add another's counts."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))


def table(counts: Counts, seconds: float) -> str:
    """The counts for a person, a line each."""
    lost = counts.steps_lost or [0]
    rows = [
        ("SIGKILLs", counts.kills),
        ("  of real flow processes", counts.kills_of_flows),
        ("  of flow processes under a worker", counts.kills_under_a_worker),
        ("SIGTERMs", counts.terms),
        ("  of real flow processes", counts.terms_of_flows),
        ("resumes", counts.resumes),
        ("steps lost per kill, mean", f"{statistics.fmean(lost):.2f}"),
        ("steps lost per kill, max", max(lost)),
        ("steps lost per SIGTERM, max", max(counts.term_steps_lost or [0])),
        ("start to first new step, forked child", _spread(counts.restart_forked_s)),
        ("start to first new step, flow process", _spread(counts.restart_flow_s)),
        ("start to first new step, under a worker", _spread(counts.restart_worker_s)),
        ("runs", counts.runs + counts.pairs),
        ("  with weights, figures and history identical", counts.identical),
        ("pairs started together", counts.pairs),
        ("bits flipped between processes", counts.flips),
        ("bits flipped in finished checkpoints", counts.finished_flips),
        ("  noticed before use", counts.finished_flips_noticed),
        ("crash points tried one by one", counts.points),
        ("kills during uploads to W&B", counts.uploads_killed),
        ("  newest whole set restored, same end", counts.uploads_restored),
        ("files damaged or stray, stages lost or run twice, ...", len(counts.trouble)),
        ("seconds", f"{seconds:.0f}"),
    ]
    return "\n".join(f"{label:<54} {value}" for label, value in rows)


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "-"
    return f"median {statistics.median(seconds):.1f} s, max {max(seconds):.1f} s of {len(seconds)}"
