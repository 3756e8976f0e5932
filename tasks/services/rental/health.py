"""Whether a rented machine is still of use: a verdict from what was observed of it, without asking anybody."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tasks.services.rental.limits import Limits
from tasks.services.rental.machine_log import NO_SIGNS, LogSigns
from tasks.services.rental.provider import State
from tasks.services.run.phase import Phase

BAD_INPUT, PREEMPTED, NO_CUDA, NOT_FETCHED = 2, 75, 76, 77
"""Exit codes of a machine's job, beside 0 and those of other errors; 76 and 77 are onstart.sh's own."""
FAULTS_OF_THE_MACHINE = {NO_CUDA: "had no CUDA device", NOT_FETCHED: "could not fetch or install its job"}

End = Literal["completed", "preempted", "lost", "replaced", "broken", "failed"]
"""lost: the machine was taken away. replaced: one of another kind is the better one now. broken: the machine is at
fault. failed: the training is."""
Position = tuple[str, int]
"""Stage and step."""
START: Position = ("", 0)

DOING = {
    "installing": "while installing",
    "downloading": "while downloading",
    "data": "while preparing its data",
    "training": "in training",
    "evaluation": "in evaluation",
    None: "that could be seen",
}


@dataclass(frozen=True)
class Observation:
    """What is known of a machine after the newest look at it; times are seconds of the monotonic clock.

    Signs of life are another state, a step, and a line added to the log. A question without an answer is no silence:
    how long a machine is silent is measured up to the newest answer.
    """

    began_at: float
    now: float
    moved_at: float
    """The newest sign of life."""
    heard_at: float
    """The newest answer that could have shown one."""
    log_at: float
    """The same of the log alone; the beginning, where it was never read."""
    away_since: float | None = None
    state: State | None = None
    detail: str = ""
    position: Position = START
    was_running: bool = False
    log: LogSigns = NO_SIGNS
    phase: Phase | None = None
    beat_at: float | None = None
    """The newest heartbeat or sign of life; None while no heartbeat was ever seen."""
    stepped_at: float | None = None
    step_s: float | None = None
    """The longest time from one step to the next of the same stage."""

    @classmethod
    def begin(cls, now: float) -> Observation:
        """Before the first look."""
        return cls(began_at=now, now=now, moved_at=now, heard_at=now, log_at=now)

    def then(
        self, state: State, detail: str, position: Position | None, now: float, log: LogSigns | None = None
    ) -> Observation:
        """After one more look at a machine that exists; None: the run, or the log, did not answer."""
        seen = self._after_log(log, now)._after_step(position, now, same_state=state == self.state)
        if state != self.state:
            seen = replace(seen, moved_at=now, stepped_at=now if seen.stepped_at == now else None)
        is_heard = position is not None or log is not None or state != "running"
        away_since = now if self.away_since is None else self.away_since
        return replace(
            seen,
            now=now,
            heard_at=now if is_heard else self.heard_at,
            beat_at=seen.moved_at if seen.beat_at is not None and seen.moved_at == now else seen.beat_at,
            away_since=None if state in ("running", "booting") else away_since,
            state=state,
            detail=detail,
            was_running=self.was_running or state == "running",
        )

    def _after_log(self, log: LogSigns | None, now: float) -> Observation:
        if log is None:
            return self
        return replace(
            self,
            log=log,
            log_at=now,
            phase=log.phase or self.phase,
            beat_at=now if log.beat not in ("", self.log.beat) else self.beat_at,
            moved_at=now if log.has_grown_since(self.log) else self.moved_at,
        )

    def _after_step(self, position: Position | None, now: float, *, same_state: bool) -> Observation:
        if position is None or position == self.position:
            return self
        step_s = self.step_s
        if same_state and position[0] == self.position[0] and self.stepped_at is not None:
            step_s = max(now - self.stepped_at, step_s or 0.0)
        return replace(self, position=position, moved_at=now, stepped_at=now, step_s=step_s)


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
    if seen.away_since is not None and seen.now - seen.away_since >= limits.lost_after_s:
        return Verdict("lost", "was taken away")
    return _verdict_on_silence(seen, limits)


def _verdict_on_silence(seen: Observation, limits: Limits) -> Verdict | None:
    """What announced itself in the log is measured there; without one only the run can show that nothing happens."""
    if seen.state == "running":
        if seen.beat_at is not None and (silent_s := seen.log_at - seen.beat_at) > limits.gone_after_s:
            why = f"has lost the processes of its job (no heartbeat for {silent_s:.0f} s)"
            return Verdict("broken", why, exclude=True)
        idle_s = seen.log_at - seen.moved_at
        if seen.phase is not None and idle_s > limits.silence(seen.phase, seen.step_s):
            return Verdict("broken", f"did nothing for {idle_s:.0f} s {DOING[seen.phase]}")
    idle_s = seen.heard_at - (seen.moved_at if seen.phase is None else max(seen.moved_at, seen.log_at))
    if idle_s > limits.silence_timeout_s:
        return Verdict("broken", f"did nothing for {idle_s:.0f} s {DOING[None]}")
    return None


def is_final_refusal(since: float, now: float, limits: Limits) -> bool:
    """Whether a key that was refused ever since, while machines were rented with it, is to be taken for refused."""
    return now - since >= limits.refused_after_s


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
