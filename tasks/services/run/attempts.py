"""reports/attempts.jsonl: the runs that began anew after each crash, and whether yet another makes sense."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.services.run import jsonl
from tasks.services.run.clock import utc_now
from tasks.services.run.lock import OwnedRun
from tasks.services.run.status import Status, read_status
from ups_models.errors import UPSError
from ups_models.stages.spec import SPECS

WAIT_S = (0.0, 10.0, 30.0, 60.0, 120.0)
"""How long to wait after so many attempts in a row that came no further; one more than these gives up."""
DAY_S = 86_400.0
REPEATED_WITHIN_S = 3600.0
"""For so long an end may be reported again; a copy of a run that gave up longer ago is made by a person."""


class GaveUp(UPSError):
    """Another attempt would most likely end as the last ones did."""


class Duplicate(UPSError):
    """This attempt was made already: a crash may be reported twice, by the worker and by its runner."""


@dataclass(frozen=True)
class ChainRun:
    """One run of a chain, and how many there may be."""

    chain: str
    run_id: str
    number: int
    most: int
    most_per_day: int
    again: bool = False
    """Whether this very run began before: it was suspended, or a person retried it."""
    elsewhere: tuple[Mapping[str, Any], ...] = ()
    """Notes of earlier runs of the chain, as the server has them: some ran on other machines, or died at once."""

    @property
    def follows_another(self) -> bool:
        """Whether another run of the chain was before it."""
        return self.number > 1

    @property
    def has_predecessor(self) -> bool:
        """Whether another process worked on it before, which may be alive: cut off from Prefect alone."""
        return self.follows_another or self.again

    @property
    def exceeds_limit(self) -> bool:
        """Whether it is beyond the number that the chain may have."""
        return self.number > self.most

    def check_limit(self) -> None:
        """Raise GaveUp if it is one too many."""
        if self.exceeds_limit:
            raise GaveUp(f"{self.most} attempts did not finish it; look at the last one's logs, or raise max_attempts")


@contextmanager
def recorded(run: OwnedRun, attempt: ChainRun) -> Iterator[float]:
    """Note that the attempt begins or makes no sense, and with what error it fails; yields the seconds to wait first.

    Raises GaveUp, Duplicate.
    """
    path = run.chain_runs
    place = progress_marker(read_status(run.status))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        wait_s = backoff_before(_notes(path, attempt, place), attempt, place, time.time())
    except GaveUp:
        _note(path, attempt, "gave up", place, most_per_day=attempt.most_per_day)
        raise
    _note(path, attempt, "began", place)
    try:
        yield wait_s
    except Exception as error:  # noted for the next attempt, and raised on
        if path.is_file():  # never recreate a deleted run directory
            text = f"{type(error).__name__}: {error}"
            _note(path, attempt, "failed", progress_marker(read_status(run.status)), error=text)
        raise


def backoff_before(before: list[dict[str, Any]], attempt: ChainRun, place: str, now: float) -> float:
    """Seconds to wait before this attempt, given what was noted of the earlier ones. Raises GaveUp, Duplicate."""
    if any(_is_made(entry, attempt, now) for entry in before):
        raise Duplicate(f"attempt {attempt.number} of chain {attempt.chain} was made already")
    begun = [entry for entry in before if entry["event"] == "began"]
    failed = [entry for entry in before if entry["event"] == "failed"]
    today = sum(entry["time"] > now - DAY_S for entry in begun)
    if today >= attempt.most_per_day:
        raise GaveUp(f"{today} attempts in 24 hours did not finish it; try tomorrow, or raise max_attempts_per_day")
    if len(failed) > 1 and all(failed[-1][key] == failed[-2][key] for key in ("place", "error")):
        raise GaveUp(f"the same error twice at {place or 'the start'}: {failed[-1]['error']}")
    stuck = next((n for n, entry in enumerate(reversed(begun)) if entry["place"] != place), len(begun))
    if stuck >= len(WAIT_S):
        raise GaveUp(f"{stuck} attempts in a row came no further than {place or 'the start'}; look at their logs")
    return WAIT_S[stuck]


def _is_made(entry: Mapping[str, Any], attempt: ChainRun, now: float) -> bool:
    """Whether the entry shows that another run made the attempt, and under the same bounds if it gave up at once."""
    if entry["attempt"] != attempt.number or entry["run"] == attempt.run_id:
        return False
    repeated = entry.get("most_per_day") == attempt.most_per_day and entry["time"] > now - REPEATED_WITHIN_S
    return entry["event"] != "gave up" or repeated


def progress_marker(status: Status) -> str:
    """How far a run is, such as `operator:300 diff_residual:120`; what changes it is progress."""
    stages = ((name, status.stage(name)) for name in SPECS)
    parts = [f"{name}:{record.step or record.status}" for name, record in stages if record.status != "not_started"]
    parts += [name for name, record in status.evaluations.items() if record.status == "completed"]
    return " ".join(parts)


def entries(path: Path, chain: str) -> list[dict[str, Any]]:
    """What was noted of a chain, oldest first."""
    return [entry for entry in jsonl.read(path) if entry.get("chain") == chain and _is_entry(entry)]


def _notes(path: Path, attempt: ChainRun, place: str) -> list[dict[str, Any]]:
    """What was noted here and elsewhere; a run that could not even say where it began came no further than this."""
    here = entries(path, attempt.chain)
    known = {entry["run"] for entry in here}
    elsewhere = [{"place": place, **note} for note in attempt.elsewhere if note["run"] not in known]
    return sorted([*here, *elsewhere], key=lambda entry: float(entry["time"]))


def _is_entry(entry: Mapping[str, Any]) -> bool:
    """Whether it says all that an attempt leaves; what else stands in the file costs itself."""
    texts = ["run", "event", "place", *(["error"] if entry.get("event") == "failed" else [])]
    numbers = isinstance(entry.get("attempt"), int) and isinstance(entry.get("time"), int | float)
    return numbers and all(isinstance(entry.get(name), str) for name in texts)


def _note(path: Path, attempt: ChainRun, event: str, place: str, **more: str | int) -> None:
    entry = {"chain": attempt.chain, "attempt": attempt.number, "run": attempt.run_id, "event": event, "place": place}
    jsonl.append(path, {**entry, "at": utc_now(), "time": time.time(), **more})
