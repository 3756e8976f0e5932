"""Uploads of checkpoint sets: one thread beside training, with retries; a failure is recorded, and stops nothing."""

import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.services.checkpoints.sets import signature_of, take_snapshot, write_manifest
from tasks.services.run.clock import utc_now
from tasks.services.run.lock import OwnedRun
from tasks.services.run.retry import retrying
from tasks.services.run.status import Status, StatusStore
from ups_models.errors import RunLost, UPSError

logger = logging.getLogger(__name__)

RETRY_AFTER_S = (1.0, 5.0, 30.0)
GRACE_S = 2.0  # for the last upload of a process that is about to end

Publish = Callable[[Path, tuple[str, ...]], str]  # (folder of a set, aliases) -> version under which it is safe


class UploadFailed(UPSError):
    """A set that did not reach W&B; it is still on this machine."""


class _Replaced(UPSError):
    """A newer set, which holds all that this one does, has come; or nothing more is to be started."""


@dataclass(frozen=True)
class _Queued:
    folder: Path
    aliases: tuple[str, ...]
    signature: str


def why_missing(status: Status) -> str | None:
    """Why W&B does not have the checkpoints that a status names; None if it has them."""
    if status.upload is not None and status.upload.signature == signature_of(status):
        return None
    return (status.upload.error_message if status.upload else None) or "checkpoints were not uploaded to W&B"


class Uploads:
    """A queue of one: a newer set replaces an older one that has not started, and takes over its aliases."""

    def __init__(
        self,
        run: OwnedRun,
        publish: Publish,
        *,
        every_s: float,
        timeout_s: float,
        retry_after_s: tuple[float, ...] = RETRY_AFTER_S,
    ) -> None:
        self.run, self.publish, self.retry_after_s = run, publish, retry_after_s
        self.every_s, self.timeout_s = every_s, timeout_s
        self.queued_at = time.monotonic()
        self.number = 0
        self.queued: _Queued | None = None
        self.pending_aliases: tuple[str, ...] = ()  # aliases of a set that failed: the next one holds all that it did
        self.busy = False
        self.closing = False
        self.lost: RunLost | None = None
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._work, name="uploads", daemon=True)
        self.thread.start()

    def saved(self) -> None:
        """A stage in progress has saved its state: upload it when the interval is over. Raises RunLost."""
        if self.lost is not None or time.monotonic() - self.queued_at >= self.every_s:
            self.add()

    def add(self, *aliases: str) -> None:
        """Upload the run's set as it is now, under these aliases. Called by the thread that writes checkpoints.

        Raises RunLost once an upload has found that another machine has the run.
        """
        if self.lost is not None:
            raise self.lost
        self.number += 1
        self.queued_at = time.monotonic()
        folder = self.run.staging / f"upload{self.number}"
        try:
            status = take_snapshot(self.run, folder)
        except (OSError, UPSError) as error:
            logger.warning("no snapshot could be taken for W&B; training continues: %s", error)
            self._record(error_message=str(error))
            return
        with self.changed:
            if self.queued is not None:
                aliases = tuple(dict.fromkeys((*self.queued.aliases, *aliases)))
                shutil.rmtree(self.queued.folder)
            self.queued = _Queued(folder, aliases, signature_of(status))
            self.changed.notify_all()

    def drain(self, within_s: float) -> bool:
        """Wait until everything is uploaded or given up; False when that took too long."""
        with self.changed:
            return self.changed.wait_for(lambda: self.queued is None and not self.busy, within_s)

    def preempted(self) -> None:
        """A last upload, within seconds: whatever does not make it is on disk."""
        if not self.closing and self.lost is None:
            self.add()
            self.drain(GRACE_S)
        self.close()

    def finish(self, *, required: bool) -> str | None:
        """Wait for what was begun, and close. If the newest set is `required` in W&B, returns why it is not there."""
        if self.closing:
            return None
        if not self.drain(self.timeout_s):
            logger.warning("an upload to W&B is not finished; `ups sync %s --config CONFIG` retries it", self.run.root)
        missing = why_missing(StatusStore(self.run).read()) if required else None
        if missing is not None and self.lost is None:
            self.add()
            self.drain(self.timeout_s)
            missing = why_missing(StatusStore(self.run).read())
        self.close()
        return missing

    def close(self) -> None:
        """Start nothing more."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()

    def _work(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.queued is not None or self.closing)
                if self.closing or self.queued is None:
                    return
                item, self.queued, self.busy = self.queued, None, True
            try:
                self._upload(item)
            finally:
                with self.changed:
                    self.busy = False
                    self.changed.notify_all()

    def _upload(self, item: _Queued) -> None:
        self.pending_aliases = tuple(dict.fromkeys((*self.pending_aliases, *item.aliases)))
        try:
            version = retrying(self.retry_after_s, self._may_retry, pause=self._pause)(self._try, item)
        except _Replaced:
            logger.debug("%s: not tried again", item.folder)
        except (UPSError, OSError) as error:
            logger.warning("%s; it is safe on this machine", error)
        else:
            self.pending_aliases = ()
            self._record(version=version, uploaded_at=utc_now(), signature=item.signature, error_message=None)
            logger.info("checkpoints uploaded to W&B as %s", version)
        shutil.rmtree(item.folder, ignore_errors=True)

    def _try(self, item: _Queued) -> str:
        try:
            write_manifest(item.folder)
            return self.publish(item.folder, self.pending_aliases)
        except (UPSError, OSError) as error:
            self.lost = error if isinstance(error, RunLost) else self.lost
            self._record(error_message=str(error) or type(error).__name__)
            raise

    def _may_retry(self, error: Exception) -> bool:
        return isinstance(error, UPSError | OSError) and self.lost is None

    def _pause(self, seconds: float) -> None:
        """Wait before the next try, unless a newer set comes."""
        with self.changed:
            if self.changed.wait_for(lambda: self.queued is not None or self.closing, seconds):
                raise _Replaced

    def _record(self, **values: str | None) -> None:
        try:
            StatusStore(self.run).record_upload(**values)
        except UPSError as error:
            logger.warning("the upload could not be recorded in the status: %s", error)
