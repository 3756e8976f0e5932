"""One process at a time: a lock that is waited for, and that a child may inherit."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.services.run.lock import open_lock
from tasks.services.run.uninterrupted import pause_unless_stopped

logger = logging.getLogger(__name__)

LOOK_S = 0.5


@contextmanager
def turn(path: Path, what: str) -> Iterator[int]:
    """Within the block, this process alone has its turn at `path`; yields a handle of the lock beside it.

    A child that inherits the handle (`pass_fds`) holds the turn as well, until it ends, whatever happens to us. Raises
    Preempted where this process was stopped while it waited, BadInput where a link or a folder is in the lock's place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, is_logged = open_lock(path.with_name(f".{path.name}.lock")), False
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not is_logged:
                    logger.info("%s: another process works on it, and is waited for", what)
                is_logged = True
                pause_unless_stopped(LOOK_S, what)
        yield handle
    finally:
        os.close(handle)
