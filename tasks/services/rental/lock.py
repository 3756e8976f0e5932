"""One controller at a time for a journal, and a journal before anything is rented."""

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tasks.services.run.lock import OWNER_BYTES, current_owner, open_lock
from ups_models.errors import BadInput, StorageError
from ups_models.reading import Unreadable, open_handle, parse_json, read_text, remedy

logger = logging.getLogger(__name__)

HERE = "choose another --run-dir"
LOCK_TRIES, LOCK_PAUSE_S = 5, 0.05
"""Whoever looks for a controller holds the lock for a moment, so a refusal counts only if it lasts."""


@dataclass(frozen=True)
class Owner:
    """The living process that works on a journal."""

    pid: int
    host: str
    started_at: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, started {self.started_at}"


def controller_of(journal_path: Path) -> Owner | None:
    """The controller that holds the journal; None where none does. Creates nothing; raises BadInput."""
    path = journal_path.with_suffix(".lock")
    try:
        handle = open_handle(path, os.O_RDONLY, follow_links=False)
    except FileNotFoundError:
        return None
    except Unreadable as error:
        raise BadInput(f"{error}; delete it, or choose another --run-dir") from None
    try:
        for _ in range(LOCK_TRIES):
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                if (owner := _owner(path)) is not None:
                    return owner
                time.sleep(LOCK_PAUSE_S)  # it has the lock, and is about to write its name
            else:
                return None
    finally:
        os.close(handle)
    raise BadInput(f"{path}: is held by a process that is not named in it; wait for its end, or stop it by hand")


def _owner(path: Path) -> Owner | None:
    try:
        noted = parse_json(read_text(path, limit=OWNER_BYTES, follow_links=False))
        return Owner(int(noted["pid"]), str(noted["host"]), str(noted["started_at"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def require_writable_journal(path: Path) -> None:
    """Raise BadInput where no journal can be kept: without one nothing is rented."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise BadInput(
            f"{folder}: cannot be written, and nothing is rented without a journal; choose another --run-dir"
        )


@contextmanager
def exclusive_controller(journal_path: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Lock the journal: two controllers would watch, and destroy, each other's machines.

    Raises BadInput where another one still holds it after so many seconds.
    """
    journal_path.parent.mkdir(parents=True, exist_ok=True)
    handle = open_lock(journal_path.with_suffix(".lock"))
    try:
        if not _is_locked_now(handle):
            message = f"{journal_path}: another launch is at work in this folder"
            if wait_s > 0:
                logger.warning("%s: waiting for its end", message)
            until = time.monotonic() + wait_s
            while not _is_locked_now(handle):
                if time.monotonic() >= until:
                    raise BadInput(f"{message}; choose another --run-dir, or end it: ups stop")
        _name_owner(handle, journal_path.with_suffix(".lock"))
        yield
    finally:
        os.close(handle)


def _name_owner(handle: int, path: Path) -> None:
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(current_owner()).encode(), 0)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}); {remedy(error) or HERE}") from None


def _is_locked_now(handle: int) -> bool:
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_S)
        else:
            return True
    return False
