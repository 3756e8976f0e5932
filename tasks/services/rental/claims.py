"""One controller a run, wherever it is: its claim in the W&B run, which it keeps alive and the others read."""

import logging
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

from tasks.services.run.lock import current_owner
from tasks.services.tracking.protocols import ControllerRecord, RemoteProgress, TrackingUnavailable
from ups_models.errors import BadInput, UPSError

logger = logging.getLogger(__name__)

HEARTBEAT_S, DEAD_AFTER_S = 120.0, 600.0
"""A controller says so often that it lives, and one that has been silent for so long counts as dead."""


class TakenOver(UPSError):
    """Another controller has taken over the run and its machines; this one leaves them alone."""


class Claimable(Protocol):
    """A run as the claims see it."""

    def claim(self, record: ControllerRecord) -> None:
        """Write who works on the run. Raises TrackingUnavailable."""


def active(record: ControllerRecord | None, own: Collection[str], now: float) -> ControllerRecord | None:
    """The controller that may still be at work, by what the run says; `own` are ids of this journal's controllers."""
    if record is None or record.id in own or now - record.seen_at >= DEAD_AFTER_S:
        return None
    return record


def in_words(record: ControllerRecord, now: float) -> str:
    """Who it is, and when it was last heard of."""
    heard = f"{datetime.fromtimestamp(record.seen_at, UTC):%H:%M:%S} UTC, {max(0.0, now - record.seen_at):.0f} s ago"
    return f"process {record.pid} on {record.host}, started {record.started_at}, last heard of at {heard}"


def require_free(
    run: str, record: ControllerRecord | None, own: Collection[str], *, takeover: bool, now: float | None = None
) -> None:
    """Raise BadInput where another controller works on the run, unless it is to be taken over."""
    moment = time.time() if now is None else now
    other = active(record, own, moment)
    if other is not None and not takeover:
        raise BadInput(
            f"run {run}: {in_words(other, moment)}, works on it; end that launch (ups stop), wait "
            f"{DEAD_AFTER_S / 60:g} minutes if it is dead, or take over with --takeover"
        )


@dataclass
class Claim:
    """The claim of this process on a run."""

    run: Claimable
    record: ControllerRecord
    own: frozenset[str] = frozenset()
    """Ids of controllers of the same journal: they are dead, for this one holds its lock."""
    clock: Callable[[], float] = time.time
    written_at: float = field(default=0.0, init=False)

    def take(self) -> None:
        """Write it; while W&B does not answer, `keep` tries again."""
        self._try_to_write(self.clock())

    def keep(self, progress: RemoteProgress) -> None:
        """Renew it where that is due. Raises TakenOver where another one counts."""
        other, now = progress.controller, self.clock()
        if other is not None and other.id in self.own and other.number >= self.record.number:
            self.record = replace(self.record, number=other.number + 1)
        if other is not None and other.id != self.record.id and other.number >= self.record.number:
            raise TakenOver(f"{in_words(other, now)}, has taken over; this launch leaves the machines to it")
        is_replaced = other is None or other.id != self.record.id  # a machine has written its own config again
        has_ended = progress.outcome is not None and progress.outcome[0] >= progress.generation
        if not has_ended and (is_replaced or now - self.written_at >= HEARTBEAT_S):
            self._try_to_write(now)

    def release(self) -> None:
        """Say that nobody works on the run any more."""
        self._try_to_write(0.0)

    def _try_to_write(self, seen_at: float) -> None:
        try:
            self._write(seen_at)
        except TrackingUnavailable as error:
            logger.warning("%s", error)

    def _write(self, seen_at: float) -> None:
        self.run.claim(replace(self.record, seen_at=seen_at))
        self.written_at = self.clock()


def new_claim(
    run: Claimable, before: ControllerRecord | None, job: Mapping[str, str], own: Collection[str] = ()
) -> Claim:
    """The claim of this process, after the one that the run names."""
    owner = current_owner()
    number = 1 + (before.number if before is not None else 0)
    record = ControllerRecord(
        number, secrets.token_hex(8), str(owner["host"]), int(owner["pid"]), str(owner["started_at"]), 0.0, job
    )
    return Claim(run, record, frozenset(own))
