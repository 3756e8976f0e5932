"""Metrics to W&B: each row once and in order, or, while it cannot be reached, later from the files of the run."""

import logging
from collections import deque
from collections.abc import Callable, Mapping

from tasks.services.run.history import History, Row
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from tasks.services.tracking.coordination import BASE, ROWS_BEFORE
from tasks.services.tracking.protocols import MetricLogger, ReportPayload
from tasks.services.tracking.run_path import Received
from tasks.services.tracking.wandb_client import GLOBAL_STEP, Session
from ups_models.stages.spec import SPECS

logger = logging.getLogger(__name__)


class OnlineLogger(MetricLogger):
    """Sends every row that W&B does not have: reports/metrics.jsonl is complete, W&B may be behind."""

    def __init__(
        self,
        run: RunDir,
        session: Session,
        received: Received,
        starts_at: Mapping[str, int],
        publish_report: Callable[[RunDir], None] = lambda _run: None,
    ) -> None:
        """`starts_at` is the global step at which each stage begins: the steps of all stages before it.

        `publish_report` uploads evaluations and report as files that `ups pull` brings back.
        """
        self.publish_report = publish_report
        self.run, self.session, self.summary, self.starts_at = run, session, dict(received.summary), starts_at
        self.arrived = {stage: len(rows) for stage, rows in received.rows.items()}
        self.newest = max((now for rows in received.rows.values() for _, now in rows), default=0)
        self.last, self.base = {}, {}
        for stage in SPECS:
            rows = received.rows.get(stage, ())[int(self.summary.get(f"{stage}/{ROWS_BEFORE}", 0)) :]
            step, now = rows[-1] if rows else (0, starts_at[stage])
            self.last[stage], self.base[stage] = step, int(self.summary.get(f"{stage}/{BASE}", now - step))
        self.unsent: deque[tuple[str, Row]] = deque()
        self.open = True

    def catch_up(self) -> None:
        """Send what only this machine has of any stage, in order: a process may have been killed before it arrived."""
        for stage in History(self.run).of_these_weights(read_status(self.run.status)):
            self.begin(stage)

    def begin(self, stage: str) -> None:
        """Send what only this machine has of the stage; one that was started anew is sent from its first step."""
        started_at = read_status(self.run.status).stage(stage).started_at or ""
        self.unsent.extend((stage, row) for row in History(self.run).read().get(stage, []))
        if self.summary.get(f"{stage}/started_at") != started_at:
            older = self.arrived.get(stage, 0)
            self.last[stage], self.base[stage] = 0, self.newest if older else self.starts_at[stage]
            values: Mapping[str, float | str] = {
                f"{stage}/started_at": started_at,
                f"{stage}/{BASE}": self.base[stage],
                f"{stage}/{ROWS_BEFORE}": older,
            }
            self.summary |= values
            self.session.summarise(values)
        self._send()

    def row(self, stage: str, row: Row) -> None:
        """Send it, after those that could not be sent before."""
        self.unsent.append((stage, row))
        self._send()

    def report(self, gather: Callable[[], ReportPayload]) -> None:
        """Metrics in tables and in the summary, figures, the page, and the files of them all. Training is over."""
        self.session.report(gather(), self.run.staging / "media")
        self.publish_report(self.run)

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
        step = int(row["step"])
        if step > self.last[stage]:
            now = self.base[stage] + step
            self.session.log({GLOBAL_STEP: now, **{f"{stage}/{key}": value for key, value in row.items()}})
            self.last[stage], self.newest = step, max(self.newest, now)
            self.arrived[stage] = self.arrived.get(stage, 0) + 1


class OfflineLogger(MetricLogger):
    """Writes nothing: the files of the run are complete."""

    def __init__(self, run: RunDir) -> None:
        self.run = run

    def close(self, *, failed: bool) -> None:
        """Say how W&B gets the run later."""
        later = "W&B does not have this run; once it can be reached, `ups sync %s --config CONFIG` uploads it"
        logger.warning(later, self.run.root)
