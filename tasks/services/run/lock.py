"""Who owns a run: one living process, by a lock that the kernel releases when it dies."""

import fcntl
import json
import logging
import os
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

from tasks.services.run.clock import PROCESS_STARTED_AT
from tasks.services.run.paths import CONFIG, RunDir
from ups_models.errors import BadInput, RunLost
from ups_models.files import remove_stale_temporaries, set_aside
from ups_models.reading import Unreadable, open_handle, parse_json, read_text
from ups_models.wording import shortened

logger = logging.getLogger(__name__)

LOCK_TRIES, LOCK_PAUSE_S, OWNER_PAUSE_S = 5, 0.05, 1.0
OWNER_PATIENCE_S = 3600.0
"""A run under a worker waits for an owner that has written something within this time."""
OWNER_BYTES = 100_000


class RunOwned(BadInput):
    """Another living process works on the run."""


@dataclass(frozen=True)
class OwnedRun(RunDir):
    """A run that this process owns while the block of `owned` lasts: whoever writes to a run asks for one."""

    lock_file: BinaryIO

    def check(self) -> None:
        """Raise RunLost when the lock is not held any more, or is not the one that lies in the run.

        Called before anything is recorded: a directory that was removed is never recreated, and a lock file that was
        deleted does not let two processes write.
        """
        if self.lock_file.closed or not self._lies_in_the_run():
            raise RunLost(
                f"{self.root}: its directory or its lock {self.lock.name} was removed or replaced while this process "
                "worked on it; nothing more was written. Start again, with --auto-resume if the checkpoints are still "
                "there"
            )

    def _lies_in_the_run(self) -> bool:
        try:
            return self.lock.stat().st_ino == os.fstat(self.lock_file.fileno()).st_ino
        except OSError:
            return False


@contextmanager
def owned(run: RunDir, *, patience_s: float = 0.0) -> Iterator[OwnedRun]:
    """Own the run until the block ends; the kernel releases the lock when the process dies.

    Another living process that owns it is waited for as long as it writes at least that often; then, and at once
    without patience, raises RunOwned naming pid and host.
    """
    try:
        run.checkpoints.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"{run.checkpoints}: cannot be created or written ({error.strerror}); choose another --run-dir"
        ) from None
    handle = _held_lock(run, patience_s)
    with os.fdopen(handle, "r+b", buffering=0) as file:
        file.truncate(0)
        file.write(json.dumps(current_owner()).encode())
        _refuse_links(run)
        _name_links(run)
        _warn_if_shared(run.checkpoints)
        _clean(run)
        yield OwnedRun(run.root, run.checkpoints, file)


def _held_lock(run: RunDir, patience_s: float) -> int:
    while True:
        handle = open_lock(run.lock)
        if _locked(handle, run.lock):
            return handle
        os.close(handle)
        # of several that wait, one has it now, and is waited for in its turn
        if not patience_s or not wait_until_free(run, patience_s):
            raise RunOwned(owner_message(run))


def open_lock(path: Path) -> int:
    """Open a lock file, made if it is not there; no other file is ever written through it. Raises BadInput."""
    try:
        handle = open_handle(path, os.O_RDWR | os.O_CREAT, follow_links=False)
    except (Unreadable, FileNotFoundError) as error:
        reason = error.reason if isinstance(error, Unreadable) else "its folder is not there"
        raise BadInput(
            f"{path}: cannot be the lock of a run: {reason}; delete it, or choose another --run-dir"
        ) from None
    if os.fstat(handle).st_nlink > 1:
        os.close(handle)
        raise BadInput(
            f"{path}: cannot be the lock of a run: it is another file too (a hard link); delete it here, where "
            "nothing is lost"
        )
    return handle


def _locked(handle: int, path: Path) -> bool:
    """Take the lock; `is_owned` holds it for a moment, so a refusal counts only if it lasts."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_S)
        except OSError as error:
            os.close(handle)
            raise BadInput(_no_locks(path, error)) from None
        else:
            return True
    return False


def current_owner() -> dict[str, int | str]:
    """This process, as the status and the lock name it."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "started_at": PROCESS_STARTED_AT}


def is_owned(run: RunDir) -> bool:
    """Whether a living process owns the run. The lock is tried and released; nothing is created."""
    try:
        handle = open_handle(run.lock, os.O_RDONLY, follow_links=False)
    except FileNotFoundError:
        return False
    except Unreadable as error:
        raise BadInput(f"{error}; delete it, or choose another --run-dir") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        raise BadInput(_no_locks(run.lock, error)) from None
    finally:
        os.close(handle)
    return False


def _no_locks(path: Path, error: OSError) -> str:
    return (
        f"{path}: this file system has no locks ({error.strerror or error}), and without one two processes could work "
        "on the run; mount it as NFSv4, or choose another --run-dir"
    )


def wait_until_free(run: RunDir, patience_s: float = OWNER_PATIENCE_S) -> bool:
    """Wait for the end of the living process that owns the run, unless it has written nothing for so long.

    Returns whether nobody owned it at the end.
    """
    began = time.time()
    if is_owned(run):
        logger.warning("%s: %s is still working on this run: waiting for its end", run.root, owner_in_words(run.lock))
    while is_owned(run):
        if time.time() - max(began, _last_written(run)) >= patience_s:
            return False
        time.sleep(OWNER_PAUSE_S)
    return True


def _last_written(run: RunDir) -> float:
    """When a file of the run was written last, in seconds since 1970; 0 for an empty run."""
    times = [0.0]
    for folder in (run.checkpoints, run.checkpoints / "resume", run.reports):
        for path in folder.glob("*"):
            try:
                times.append(path.stat().st_mtime)
            except FileNotFoundError:  # replaced or removed since it was listed
                continue
    return max(times)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def owner_message(run: RunDir) -> str:
    """What is said to a process that may not have the run."""
    return f"{run.root}: {owner_in_words(run.lock)} is working on this run; wait for it or stop it"


def _name_links(run: RunDir) -> None:
    """Say which folders of the run are links that a user made: they are followed."""
    for folder in (run.root, run.checkpoints, run.checkpoints / "resume", run.reports, run.data):
        if folder.is_symlink():
            logger.info("%s is a link to %s", folder, folder.resolve())


@cache
def _warn_if_shared(folder: Path) -> None:
    """Told once."""
    if folder.stat().st_mode & stat.S_IWOTH:
        logger.warning(
            "%s: every user of this machine can replace checkpoints in it; run: chmod o-w %s", folder, folder
        )


def _refuse_links(run: RunDir) -> None:
    """Raise BadInput for a link in the place of the status or of a saved state: it could lead to another run's."""
    for path in (run.status, *sorted((run.checkpoints / "resume").glob("*.pt"))):
        if path.is_symlink():
            raise BadInput(f"{path}: is a symbolic link; put the file itself in its place, or link the whole folder")


def _clean(run: RunDir) -> None:
    """Remove what killed processes left behind, and what stands where saved states are to be and is none."""
    for path in sorted((run.checkpoints / "resume").glob("*.pt")):
        set_aside(path)
    shutil.rmtree(run.staging, ignore_errors=True)
    stale = remove_stale_temporaries(run.checkpoints, run.checkpoints / "resume", run.reports, run.data)
    for path in [*stale, *remove_stale_temporaries(run.root, name=CONFIG)]:  # other files there are not ours
        logger.info("removed %s, left behind by a process that was killed", path)


def owner_in_words(lock: Path) -> str:
    """Who wrote its name into a lock file, for the beginning of a sentence."""
    try:
        owner = parse_json(read_text(lock, limit=OWNER_BYTES, follow_links=False))
        gone = owner["host"] == socket.gethostname() and not _is_alive(int(owner["pid"]))
        left = " has ended, but a process that it left behind" if gone else ""
        return shortened(f"process {owner['pid']} on {owner['host']}, started {owner['started_at']},{left}", 300)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):  # a pid beyond any system's is an OverflowError
        return "another process"
