"""Where things lie in a run, who owns it, and what time it is."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ups_models.errors import BadInput, RunLost
from ups_models.files import previous_of, remove, remove_stale_temporaries

logger = logging.getLogger(__name__)


def utc_now() -> str:
    """The time as the status file writes it: ISO-8601 UTC with a Z, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


STATUS, HISTORY, REPORT, CHAIN_RUNS = "stage_status.json", "metrics.jsonl", "report.html", "attempts.jsonl"
MANIFEST, JOURNAL, LAUNCH_LOG = "manifest.json", "rented.jsonl", "launch.log"
"""Names of the files of a run, of a set of checkpoints, and of a launch."""
PROCESS_STARTED_AT = utc_now()
LOCK_TRIES, LOCK_PAUSE_S, OWNER_PAUSE_S = 5, 0.05, 1.0
_held: dict[Path, int] = {}


@dataclass(frozen=True)
class RunDir:
    """The paths of one run."""

    root: Path
    checkpoints: Path

    @classmethod
    def of(cls, root: Path, checkpoint_dir: Path) -> RunDir:
        """The run in `root`; `checkpoint_dir` is relative to it, or absolute."""
        return cls(root, root / checkpoint_dir)

    @property
    def status(self) -> Path:
        """The one record of which stages ran."""
        return self.checkpoints / STATUS

    @property
    def lock(self) -> Path:
        """Held by the process that owns the run."""
        return self.checkpoints / ".owner"

    @property
    def reports(self) -> Path:
        """Evaluations, figures and the loss history."""
        return self.root / "reports"

    @property
    def history(self) -> Path:
        """What training measured, row by row."""
        return self.reports / HISTORY

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.reports / REPORT

    @property
    def chain_runs(self) -> Path:
        """The flow runs of a chain, each begun by itself after the one before died."""
        return self.reports / CHAIN_RUNS

    def result(self, evaluation: str, suffix: str = ".json") -> Path:
        """What an evaluation left: .json, .md or .npz."""
        return self.reports / f"{evaluation}{suffix}"

    @property
    def data(self) -> Path:
        """Data sets that we solved for ourselves."""
        return self.root / "data"

    @property
    def staging(self) -> Path:
        """Sets of checkpoints on their way to or from W&B; nothing in it counts."""
        return self.checkpoints / ".staging"

    def checkpoint(self, name: str) -> Path:
        """A checkpoint by its file name."""
        return self.checkpoints / name

    def resume(self, stage: str) -> Path:
        """The state of a stage in progress."""
        return self.checkpoints / "resume" / f"{stage}.pt"

    def saved_states(self, stage: str) -> tuple[Path, Path]:
        """Where the newest state of a stage in progress lies, and the one before it."""
        newest = self.resume(stage)
        return newest, previous_of(newest)

    def forget_saved_states(self, stage: str) -> None:
        """Delete them: the stage is completed, or starts again."""
        for path in self.saved_states(stage):
            remove(path)

    def require_writable(self) -> None:
        """Raise BadInput when the run cannot be written here; creates nothing."""
        for folder in (self.checkpoints, self.reports, self.data):
            existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
            if not existing.is_dir():
                raise BadInput(f"{existing}: is a file where the run needs a folder; choose another --run-dir")
            if not os.access(existing, os.W_OK | os.X_OK):
                raise BadInput(f"{existing}: cannot be written; choose another --run-dir or change its permissions")


@contextmanager
def owned(run: RunDir) -> Iterator[None]:
    """Own the run until the block ends; the kernel gives the lock back when the process dies.

    Raises BadInput naming pid and host when another living process owns it.
    """
    try:
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        handle = os.open(run.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise BadInput(
            f"{run.checkpoints}: cannot be created or written ({error.strerror}); choose another --run-dir"
        ) from None
    try:
        if not _locked(handle):
            raise BadInput(f"{run.root}: {_owner(run.lock)} is working on this run; wait for it or stop it")
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(current_owner()).encode(), 0)
        _held[run.lock] = handle
        shutil.rmtree(run.staging, ignore_errors=True)
        for folder in (run.checkpoints, run.checkpoints / "resume", run.reports, run.data):
            for path in remove_stale_temporaries(folder):
                logger.info("removed %s, left behind by a process that was killed", path)
        yield
    finally:
        _held.pop(run.lock, None)
        os.close(handle)


def require_owned(run: RunDir) -> None:
    """Raise RunLost when the lock that this process took is not the one that lies there any more.

    Called before anything is recorded: a directory that was removed is not made again by a ghost, and a lock file that
    was deleted does not let two processes write.
    """
    handle = _held.get(run.lock)
    if handle is None:
        return
    try:
        there = run.lock.stat().st_ino
    except OSError:
        there = None
    if there != os.fstat(handle).st_ino:
        raise RunLost(
            f"{run.root}: its directory or its lock {run.lock.name} was removed or replaced while this process worked "
            "on it; nothing more was written. Start again, with --auto-resume if the checkpoints are still there"
        )


def _locked(handle: int) -> bool:
    """Take the lock; a look by `is_owned` holds it for a moment, so a refusal counts only if it lasts."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_S)
        else:
            return True
    return False


def current_owner() -> dict[str, int | str]:
    """This process, as the status and the lock name it."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "started_at": PROCESS_STARTED_AT}


def is_owned(run: RunDir) -> bool:
    """Whether a living process owns the run. The lock is tried and given back; nothing is created."""
    try:
        handle = os.open(run.lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def wait_until_free(run: RunDir, patience_s: float = 3600.0) -> None:
    """Wait for the end of the living process that owns the run, unless it has written nothing for so long."""
    began = time.time()
    if is_owned(run):
        logger.warning("%s: %s is still working on this run: waiting for its end", run.root, _owner(run.lock))
    while is_owned(run) and time.time() - max(began, _last_written(run)) < patience_s:
        time.sleep(OWNER_PAUSE_S)


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


def _owner(lock: Path) -> str:
    try:
        owner = json.loads(lock.read_text("utf-8"))
        gone = owner["host"] == socket.gethostname() and not _is_alive(int(owner["pid"]))
        left = " has ended, but a process that it left behind" if gone else ""
        return f"process {owner['pid']} on {owner['host']}, started {owner['started_at']},{left}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
