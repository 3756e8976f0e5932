"""Metrics to W&B: each row once and in order, or, while it cannot be reached, later from the files of the run."""

import logging
from collections import deque
from collections.abc import Callable, Mapping

from tasks.services.run.history import History, Row
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from tasks.services.tracking.protocols import MetricLogger, ReportPayload
from tasks.services.tracking.wandb_client import GLOBAL_STEP, Session

logger = logging.getLogger(__name__)


class OnlineLogger(MetricLogger):
    """Sends every row that W&B does not have: reports/metrics.jsonl is complete, W&B may be behind."""

    def __init__(self, run: RunDir, session: Session, sent: Mapping[str, float | str]) -> None:
        self.run, self.session, self.sent = run, session, dict(sent)
        self.unsent: deque[tuple[str, Row]] = deque()
        self.open = True

    def begin(self, stage: str) -> None:
        """Send what only this machine has of the stage; one that was started anew is sent from its first step."""
        started_at = read_status(self.run.status).stage(stage).started_at or ""
        self.unsent.extend((stage, row) for row in History(self.run).read().get(stage, []))
        if self.sent.get(f"{stage}/started_at") != started_at:
            self.sent |= {f"{stage}/step": 0, f"{stage}/started_at": started_at}
            self.session.summarise({f"{stage}/started_at": started_at})
        self._send()

    def row(self, stage: str, row: Row) -> None:
        """Send it, after those that could not be sent before."""
        self.unsent.append((stage, row))
        self._send()

    def report(self, gather: Callable[[], ReportPayload]) -> None:
        """Metrics in tables and in the summary, figures, and the page."""
        self.session.report(gather(), self.run.staging / "media")

    def preempted(self) -> None:
        """Send the last rows, and say that the machine goes away."""
        if self.open:
            self.open = False
            self.session.preempt()

    def close(self, *, failed: bool) -> None:
        """Wait for the last rows, no longer than the config says."""
        if self.open:
            self.open = False
            self.session.finish(1 if failed else 0)

    def _send(self) -> None:
        while self.unsent:
            self._send_row(*self.unsent[0])
            self.unsent.popleft()

    def _send_row(self, stage: str, row: Row) -> None:
        """Unless W&B has it: a step that is repeated after a resume gives the same numbers again."""
        step, last = int(row["step"]), int(self.sent.get(f"{stage}/step", 0))
        if step > last:
            now = int(self.sent.get(GLOBAL_STEP, 0)) + step - last  # it counts the optimiser's steps: never back
            self.session.log({GLOBAL_STEP: now, **{f"{stage}/{key}": value for key, value in row.items()}})
            self.sent |= {f"{stage}/step": step, GLOBAL_STEP: now}


class OfflineLogger(MetricLogger):
    """Writes nothing: the files of the run are complete."""

    def __init__(self, run: RunDir) -> None:
        self.run = run

    def close(self, *, failed: bool) -> None:
        """Say how W&B gets the run later."""
        later = "W&B does not have this run; once it can be reached, `ups sync %s --config CONFIG` uploads it"
        logger.warning(later, self.run.root)
