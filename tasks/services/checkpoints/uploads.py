"""Sets of checkpoints on their way to W&B: one thread beside training, retried, and never a reason to stop."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.services.checkpoints.sets import write_manifest, signature_of, take_snapshot
from tasks.services.run.clock import utc_now
from tasks.services.run.lock import OwnedRun
from tasks.services.run.status import StatusStore
from ups_models.errors import UPSError

logger = logging.getLogger(__name__)

RETRY_AFTER_S = (1.0, 5.0, 30.0)

Publish = Callable[[Path, tuple[str, ...]], str]
"""(folder of a set, aliases) to the version under which it is safe; raises UploadFailed."""


class UploadFailed(UPSError):
    """A set that did not reach W&B; it is still on this machine."""


@dataclass(frozen=True)
class _Waiting:
    folder: Path
    aliases: tuple[str, ...]
    signature: str


class Uploads:
    """A queue of one: a newer set replaces an older one that has not started, and takes over its aliases."""

    def __init__(
        self, run: OwnedRun, publish: Publish, *, every_s: float, retry_after_s: tuple[float, ...] = RETRY_AFTER_S
    ) -> None:
        self.run, self.publish, self.every_s, self.retry_after_s = run, publish, every_s, retry_after_s
        self.queued_at = time.monotonic()
        self.number = 0
        self.waiting: _Waiting | None = None
        self.pending_aliases: tuple[str, ...] = ()  # aliases of a set that failed: the next one holds all that it did
        self.busy = False
        self.closing = False
        self.last_error: Exception | None = None
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._work, name="uploads", daemon=True)
        self.thread.start()

    def saved(self) -> None:
        """A stage in progress has saved its state: upload it when the interval is over."""
        if time.monotonic() - self.queued_at >= self.every_s:
            self.add()

    def add(self, *aliases: str) -> None:
        """Upload the run's set as it is now, under these aliases. Called by the thread that writes checkpoints."""
        self.number += 1
        self.queued_at = time.monotonic()
        folder = self.run.staging / f"upload{self.number}"
        try:
            status = take_snapshot(self.run, folder)
        except (OSError, UPSError) as error:
            logger.warning("no snapshot could be taken for W&B, and training goes on: %s", error)
            self._record(error_message=str(error))
            return
        with self.changed:
            if self.waiting is not None:
                aliases = tuple(dict.fromkeys((*self.waiting.aliases, *aliases)))
                shutil.rmtree(self.waiting.folder)
            self.waiting = _Waiting(folder, aliases, signature_of(status))
            self.changed.notify_all()

    def drain(self, within_s: float) -> bool:
        """Wait until everything is uploaded or given up; False when that took too long."""
        with self.changed:
            return self.changed.wait_for(lambda: self.waiting is None and not self.busy, within_s)

    def close(self) -> None:
        """Start nothing more."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()

    def _work(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting is not None or self.closing)
                if self.closing:
                    return
                item, self.waiting, self.busy = self.waiting, None, True
            try:
                if item is not None:
                    self._upload(item)
            finally:
                with self.changed:
                    self.busy = False
                    self.changed.notify_all()

    def _upload(self, item: _Waiting) -> None:
        self.pending_aliases = tuple(dict.fromkeys((*self.pending_aliases, *item.aliases)))
        for pause_s in (*self.retry_after_s, None):
            try:
                write_manifest(item.folder)
                version = self.publish(item.folder, self.pending_aliases)
            except (UPSError, OSError) as error:
                self.last_error = error
                self._record(error_message=str(error) or type(error).__name__)
                logger.warning("%s; it is safe on this machine%s", error, "" if pause_s is None else ", trying again")
                if pause_s is None or self._superseded(pause_s):
                    break
            else:
                self.pending_aliases = ()
                self._record(version=version, uploaded_at=utc_now(), signature=item.signature, error_message=None)
                logger.info("checkpoints uploaded to W&B as %s", version)
                break
        shutil.rmtree(item.folder, ignore_errors=True)

    def _superseded(self, pause_s: float) -> bool:
        """Wait before the next try; True when a newer set has come, which holds all that this one does."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting is not None or self.closing, pause_s)
            return self.waiting is not None or self.closing

    def _record(self, **values: str | None) -> None:
        try:
            StatusStore(self.run).record_upload(**values)
        except UPSError as error:
            logger.warning("the upload could not be noted in the status: %s", error)
