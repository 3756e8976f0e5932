"""Whether a rented machine is still of use: a verdict from what was observed of it, without asking anybody."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tasks.services.rental.limits import Limits
from tasks.services.rental.provider import State

BAD_INPUT, PREEMPTED, NO_CUDA, NOT_FETCHED = 2, 75, 76, 77
"""Exit codes of a machine's job, beside 0 and those of other errors; 76 and 77 are onstart.sh's own."""
FAULTS_OF_THE_MACHINE = {NO_CUDA: "had no CUDA device", NOT_FETCHED: "could not fetch or install its job"}

End = Literal["completed", "preempted", "lost", "broken", "failed"]
"""lost: the machine was taken away. broken: the machine is at fault. failed: the training is."""
Position = tuple[str, int]
"""Stage and step."""
START: Position = ("", 0)


@dataclass(frozen=True)
class Observation:
    """What is known of a machine after the newest look at it; times are seconds of the monotonic clock."""

    began_at: float
    now: float
    moved_at: float
    away_since: float | None = None
    state: State | None = None
    detail: str = ""
    position: Position = START
    was_running: bool = False

    @classmethod
    def begin(cls, now: float) -> Observation:
        """Before the first look."""
        return cls(began_at=now, now=now, moved_at=now)

    def then(self, state: State, detail: str, position: Position, now: float) -> Observation:
        """After one more look at a machine that exists."""
        moved = (state, position) != (self.state, self.position)
        away_since = now if self.away_since is None else self.away_since
        return replace(
            self,
            now=now,
            moved_at=now if moved else self.moved_at,
            away_since=None if state in ("running", "booting") else away_since,
            state=state,
            detail=detail,
            position=position,
            was_running=self.was_running or state == "running",
        )


@dataclass(frozen=True)
class Verdict:
    """How the use of a machine ended, and what follows from it."""

    end: End
    why: str = ""
    exclude: bool = False
    """Whether the machine is not rented again while there are others."""
    fatal: str = ""
    """Why another machine would end the same way; empty: it may not."""

    @property
    def is_error(self) -> bool:
        """Preemptions are expected and not counted; our own errors are, up to `max_errors`."""
        return self.end in ("broken", "failed")


def verdict_of(seen: Observation, limits: Limits) -> Verdict | None:
    """The verdict on a machine that exists and has not said how its job ended; None: watch on."""
    is_late = seen.now - seen.began_at > limits.boot_timeout_s
    if not seen.was_running and (seen.state == "failed" or is_late):
        return Verdict("broken", f"did not come up ({seen.detail})", exclude=True)
    idle_s = seen.now - seen.moved_at
    if idle_s > limits.stalled_after_s:
        return Verdict("broken", f"did nothing for {idle_s:.0f} s")
    if seen.away_since is not None and seen.now - seen.away_since >= limits.lost_after_s:
        return Verdict("lost", "was taken away")
    return None


def verdict_on_exit(code: int, position: Position, failed_at: Position | None) -> Verdict:
    """The verdict on a job that ended; `failed_at`: where the last one failed, if one did."""
    if code == 0:
        return Verdict("completed")
    if code == PREEMPTED:
        return Verdict("preempted", "was preempted")
    if code in FAULTS_OF_THE_MACHINE:
        return Verdict("broken", f"{FAULTS_OF_THE_MACHINE[code]} (exit code {code})", exclude=True)
    fatal = ""
    if code == BAD_INPUT:
        fatal = f"exit code {code}, bad input"
    elif position == failed_at:
        where = f"{position[0]} step {position[1]}" if position[0] else "the start"
        fatal = f"exit code {code}, the same error twice at {where}"
    return Verdict("failed", f"ended with exit code {code}", fatal=fatal)
