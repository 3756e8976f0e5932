"""One controller at a time for a journal, and a journal before anything is rented."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.services.run.lock import open_lock
from ups_models.errors import BadInput

logger = logging.getLogger(__name__)


def require_writable_journal(path: Path) -> None:
    """Raise BadInput where no journal can be kept: without one nothing is rented."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise BadInput(
            f"{folder}: cannot be written, and nothing is rented without a journal; choose another --run-dir"
        )


@contextmanager
def exclusive_controller(journal_path: Path, *, wait: bool = False) -> Iterator[None]:
    """Lock the journal: two controllers would watch, and destroy, each other's machines.

    Raises BadInput where another one holds it, or waits for its end.
    """
    journal_path.parent.mkdir(parents=True, exist_ok=True)
    handle = open_lock(journal_path.with_suffix(".lock"))
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"{journal_path}: another launch is at work in this folder"
            if not wait:
                raise BadInput(f"{message}; choose another --run-dir") from None
            logger.warning("%s: waiting for its end", message)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
