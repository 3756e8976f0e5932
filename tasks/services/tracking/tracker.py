"""What training reports to: metric loggers, whose failures become warnings here and only here, and the uploads."""

import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from operator import methodcaller

from tasks.services.checkpoints.uploads import UploadFailed, Uploads
from tasks.services.run.history import Row
from tasks.services.run.lock import OwnedRun
from tasks.services.tracking.coordination import generation
from tasks.services.tracking.protocols import MetricLogger, ReportPayload
from tasks.services.tracking.wandb_client import reason
from ups_models.config.schema import PipelineConfig
from ups_models.errors import RunLost

logger = logging.getLogger(__name__)

GROUP = "ups.loggers"  # entry points of loggers in other packages
MAX_ERRORS = 3
GRACE_S = 1.0

LoggerFactory = Callable[[PipelineConfig, OwnedRun], MetricLogger]


class Tracker:
    """All loggers of a run as one, and the uploads of its checkpoints if there is a store for them.

    Loggers cannot stop training. Uploads can: when another machine has taken over, and at the end on a rented machine.
    """

    def __init__(self, loggers: Mapping[str, MetricLogger] | None = None, uploads: Uploads | None = None) -> None:
        self.loggers, self.uploads = dict(loggers or {}), uploads
        self.errors: Counter[str] = Counter()

    def add_loggers(self, factories: Mapping[str, LoggerFactory], cfg: PipelineConfig, run: OwnedRun) -> None:
        """Add these loggers, and those of installed packages."""
        installed = {point.name: point for point in entry_points(group=GROUP)}
        for name, factory in {**factories, **installed}.items():
            self._guarded(name, self._add, name, factory, cfg, run)

    def catch_up(self) -> None:
        """The run was opened: each logger sends what it missed."""
        self._each(methodcaller("catch_up"))

    def begin(self, stage: str) -> None:
        """A stage starts or resumes."""
        self._each(lambda each: each.begin(stage))

    def row(self, stage: str, row: Row) -> None:
        """A step was measured."""
        self._each(lambda each: each.row(stage, row))

    def saved(self) -> None:
        """The state of the stage in progress was saved. Raises FencedOut."""
        if self.uploads is not None:
            self.uploads.saved()

    def completed(self, *stages: str) -> None:
        """The files of these stages are in place. Raises FencedOut."""
        if self.uploads is not None:
            self.uploads.add(*stages)
        for stage in stages:
            self._each(methodcaller("completed", stage))

    def report(self, gather: Callable[[], ReportPayload]) -> None:
        """Evaluations are done; figures are drawn once at most."""
        gathered = functools.cache(gather)
        self._each(lambda each: each.report(gathered))

    def preempted(self) -> None:
        """The process ends in seconds: a last upload, then all loggers at once, so that none takes another's time."""
        if self.uploads is not None:
            self.uploads.preempted()
        threads = [
            threading.Thread(target=self._guarded, args=(name, methodcaller("preempted"), each), daemon=True)
            for name, each in self.loggers.items()
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + GRACE_S
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    def close(self, *, failed: bool) -> None:
        """Close the uploads, then the loggers, the first one last. Raises UploadFailed on a rented machine."""
        required = generation() is not None and not failed
        missing = self.uploads.finish(required=required) if self.uploads is not None else None
        for name, each in reversed(self.loggers.items()):
            self._guarded(name, methodcaller("close", failed=failed or missing is not None), each)
        if missing is not None:
            raise UploadFailed(f"{missing}; this machine is rented, and what is on it alone ends with it")

    def _add(self, name: str, factory: LoggerFactory | EntryPoint, cfg: PipelineConfig, run: OwnedRun) -> None:
        make = factory.load() if isinstance(factory, EntryPoint) else factory
        self.loggers[name] = make(cfg, run)

    def _each(self, call: Callable[[MetricLogger], None]) -> None:
        for name, each in self.loggers.items():
            self._guarded(name, call, each)

    def _guarded(self, name: str, call: Callable[..., None], *arguments: object) -> None:
        if self.errors[name] >= MAX_ERRORS:
            return
        try:
            call(*arguments)
        except RunLost:  # not a failure of the logger: somebody else has the run
            raise
        except Exception as error:  # noqa: BLE001 - whatever a logger does, training continues
            self.errors[name] += 1
            more = "; it gets nothing more of this run" if self.errors[name] >= MAX_ERRORS else ""
            logger.warning("%s: %s%s; reports/metrics.jsonl has every row", name, reason(error), more)
