"""Ending a launch from outside of its controller: it is told, its machines are destroyed and confirmed gone."""

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks.services.rental.budget import Budget
from tasks.services.rental.claims import new_claim
from tasks.services.rental.fleet import Fleet
from tasks.services.rental.journal import Journal, Machine
from tasks.services.rental.launches import Known
from tasks.services.rental.limits import Limits
from tasks.services.rental.lock import Owner, controller_of, exclusive_controller
from tasks.services.rental.machine_log import last_line_of, saved_log
from tasks.services.rental.provider import Instance, Provider, ProviderError
from tasks.services.tracking.coordination import WandbCoordination
from tasks.services.tracking.protocols import TrackingUnavailable
from tasks.services.tracking.run_path import RunPath, tracking_mode
from ups_models.config.schema import TrackingConfig
from ups_models.errors import BadInput, UPSError
from ups_models.files import write_text

logger = logging.getLogger(__name__)

WITHIN_S, LOOK_S = 300.0, 0.5
"""A controller destroys its machines before it ends."""


@dataclass(frozen=True)
class Stopped:
    """What was ended, and what it came to."""

    run: str
    controller: str
    machines: tuple[str, ...]
    usd: float | None
    """None where no journal here tells."""


def stop(known: Known, run: str, provider: Provider, *, pause: Callable[[float], None] = time.sleep) -> Stopped:
    """End a launch. Raises BadInput where it has ended, ProviderError for a machine that stays, UPSError.

    `run` names the W&B run, for a launch that no journal here knows.
    """
    live = [machine for machine in known.launch.machines if machine.destroyed_at is None and machine.id is not None]
    if not known.is_open and not live:
        raise BadInput(f"run {known.launch.run}: its launch has ended, and none of its machines is left")
    controller = ""
    _save_logs(known, live, provider)  # before their controller destroys them
    if known.controller is not None and known.controller.host == socket.gethostname():
        controller = str(known.controller)
        _end(known.journal, known.controller, pause)
    elif known.controller is not None or known.journal is None:
        controller = _take_over(run, known.controller)
    left = _left(known, live)
    destroy_each([(provider, machine) for machine in left])  # whatever the disk of the journal is like
    try:
        usd = _close(known.journal, known, provider, left) if known.journal is not None else None
    except (UPSError, OSError):
        gone = ", ".join(str(machine.id) for machine in left) or "none that is known"
        logger.warning("its machines are destroyed (%s), but that cannot be noted", gone)
        raise
    return Stopped(known.launch.run, controller, tuple(machine.id or "" for machine in live), usd)


def _left(known: Known, live: list[Machine]) -> list[Machine]:
    """The machines that a controller, which has ended by now, did not destroy itself."""
    if known.journal is None:
        return live
    machines = [machine for launch in Journal(known.journal).launches() for machine in launch.machines]
    gone = {machine.id for machine in machines if machine.destroyed_at is not None}
    return [machine for machine in live if machine.id not in gone]


def _save_logs(known: Known, live: list[Machine], provider: Provider) -> None:
    """Keep what the machines wrote, for it goes with them; where that cannot be, it is logged."""
    if known.journal is None:
        return
    for machine in live:
        try:
            text = provider.logs(machine.id or "")
            if last_line_of(text):
                write_text(saved_log(known.journal, machine.generation), text)
        except (UPSError, OSError) as error:
            logger.warning("the log of instance %s is lost: %s", machine.id, error)


def _end(journal: Path | None, owner: Owner, pause: Callable[[float], None]) -> None:
    """Send the controller SIGTERM, and wait until it has destroyed its machines and is gone."""
    if journal is None:
        return
    try:
        os.kill(owner.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError:
        raise UPSError(f"{owner}: is another user's process; have its user stop it") from None
    deadline = time.monotonic() + WITHIN_S
    while controller_of(journal) == owner:
        if time.monotonic() > deadline:
            raise UPSError(f"{owner}: does not end; end it with `kill -9 {owner.pid}`, then `ups stop` again")
        pause(LOOK_S)


def _take_over(run: str, elsewhere: Owner | None) -> str:
    """Take the run from a controller elsewhere, which stops at its next look; who that was. It may be nobody.

    Raises UPSError where that one holds the journal and cannot be told.
    """
    cfg = TrackingConfig()
    if tracking_mode(cfg) != "online":
        return _unreachable(elsewhere, f"W&B cannot be told that run {run} is stopped")
    try:
        coordination = WandbCoordination(RunPath.parse(run, cfg, ""), cfg)
        before = coordination.progress().controller
        claim = new_claim(coordination, before, before.job if before is not None else {})
        claim.take()
        claim.release()
    except TrackingUnavailable as error:
        return _unreachable(elsewhere, str(error))
    return f"process {before.pid} on {before.host}" if before is not None and before.seen_at else ""


def _unreachable(elsewhere: Owner | None, why: str) -> str:
    if elsewhere is not None:
        raise UPSError(f"{elsewhere}: works on the launch, and {why}; type `ups stop` on {elsewhere.host}")
    logger.warning("%s: a controller elsewhere may rent again", why)
    return ""


def destroy_each(
    machines: Iterable[tuple[Provider, Instance | Machine]], after: Callable[[str], None] = lambda instance_id: None
) -> None:
    """Destroy machines; one that stays, or cannot be noted, keeps no other from it. Raises ProviderError of those."""
    errors: list[str] = []
    for provider, machine in machines:
        try:
            provider.destroy(machine.id or "")
            after(machine.id or "")
        except (UPSError, OSError) as error:
            errors.append(str(error))
    if errors:
        raise ProviderError("; ".join(dict.fromkeys(errors)))


def _close(path: Path, known: Known, provider: Provider, destroyed: list[Machine]) -> float:
    """Note the end of a launch that nobody controls any more, and destroy what else it has; its cost in USD."""
    with exclusive_controller(path, wait_s=WITHIN_S):  # a controller elsewhere ends at its next look
        journal = Journal(path)
        ids = {machine.id for machine in destroyed}
        for machine in [*journal.not_destroyed(), *journal.kept_machines()]:
            if machine.id in ids:
                journal.note("given back", machine.generation, id=machine.id)
        if known.is_open:
            Fleet(provider, journal, known.launch.run, Limits()).destroy_all()
        if journal.budget is not None:
            Budget.of(*journal.budget).settle(journal.spent_usd(), at_end=True)
        if journal.open_job is not None and known.is_open:
            journal.note("closed")
        now = time.time()
        return next(
            launch.usd(now) for launch in reversed(journal.launches()) if launch.started_at == known.launch.started_at
        )
