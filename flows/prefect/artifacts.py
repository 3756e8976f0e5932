"""Artifacts that Prefect's UI shows of a run: a table of the stages, a progress bar for each, and the report."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.prefect.earlier import host_label, labels_of
from tasks.services.run.attempts import progress_marker
from tasks.services.run.history import Row
from tasks.services.run.paths import RunDir
from tasks.services.run.status import Status, StatusError, read_status
from tasks.services.stages.overview import Overview, StageRow, overview, overview_of, report_in
from tasks.services.tracking.protocols import MetricLogger, ReportPayload, TrackingUnavailable
from ups_models.config.schema import PipelineConfig

logger = logging.getLogger(__name__)

STAGES, REPORT, LABELS = "stage-status", "pipeline-report", "labels"
DASH = "\N{EN DASH}"
UPDATE_EVERY_S, ASK_EVERY_S = 5.0, 30.0
CLOSE_WITHIN_S = 10.0

Cells = dict[str, str]


@dataclass(frozen=True)
class Artifact:
    """The content of one artifact."""

    kind: str
    data: str | float
    description: str


class ArtifactSender:
    """Sends the artifacts of one flow run in a thread of its own: a server that is slow or down delays nothing.

    Their keys end in the run directory, so that the history of a key in the UI is that of one directory. They go to
    the server that is configured when the sender is made, whatever the environment names later.
    """

    def __init__(self, flow_run_id: UUID, root: Path, *, close_within_s: float = CLOSE_WITHIN_S) -> None:
        self.flow_run_id, self.close_within_s = flow_run_id, close_within_s
        self.ending = key_ending(root)
        self.server = PREFECT_API_URL.value()
        self.waiting: dict[str, Artifact | dict[str, str]] = {}
        self.known: dict[str, UUID] = {}
        self.failed = False
        self.busy = self.closing = False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._work, name="artifacts", daemon=True)
        self.thread.start()

    def put(self, key: str, artifact: Artifact) -> None:
        """Show this under the key, in the place of the one before; of several that wait, only the newest is sent."""
        with self.changed:
            self.waiting[key] = artifact
            self.changed.notify_all()

    def put_stages(self, rows: list[Cells], description: str) -> None:
        """The table of stages."""
        self.put(STAGES, Artifact("table", json.dumps(rows), description))

    def put_labels(self, labels: dict[str, str]) -> None:
        """What later runs of the chain ask the server."""
        with self.changed:
            self.waiting[LABELS] = labels
            self.changed.notify_all()

    def close(self) -> None:
        """Send what is waiting, within seconds; nothing is sent afterwards."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()
            self.changed.wait_for(lambda: not self.waiting and not self.busy, self.close_within_s)
            self.waiting.clear()

    def _work(self) -> None:
        with temporary_settings({PREFECT_API_URL: self.server}), get_client(sync_client=True) as client:
            while (taken := self._next()) is not None:
                try:
                    self._send(client, *taken)
                except (httpx.HTTPError, PrefectException) as error:
                    if not self.failed:
                        logger.info("Prefect does not accept an artifact: %s", type(error).__name__)
                    self.failed = True

    def _next(self) -> tuple[str, Artifact | dict[str, str]] | None:
        """The next artifact to send; None once the sender is closed and nothing is waiting."""
        with self.changed:
            self.busy = False
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.waiting or self.closing)
            if not self.waiting:
                return None
            self.busy = True
            key = next(iter(self.waiting))
            return key, self.waiting.pop(key)

    def _send(self, client: SyncPrefectClient, key: str, artifact: Artifact | dict[str, str]) -> None:
        if isinstance(artifact, dict):
            client.update_flow_run_labels(self.flow_run_id, {**artifact})
            return
        if key in self.known:
            client.update_artifact(
                self.known[key], ArtifactUpdate(data=artifact.data, description=artifact.description)
            )
            return
        created = ArtifactCreate(
            key=f"{key}-{self.ending}",
            type=artifact.kind,
            data=artifact.data,
            description=artifact.description,
            flow_run_id=self.flow_run_id,
        )
        self.known[key] = client.create_artifact(created).id


class ArtifactLogger(MetricLogger):
    """Keeps the artifacts up to date."""

    def __init__(self, sender: ArtifactSender, cfg: PipelineConfig, run: RunDir) -> None:
        self.sender, self.cfg, self.run = sender, cfg, run
        self.updated_at, self.began = 0.0, (0, time.monotonic())
        self.began_at = progress_marker(read_status(run.status))
        self._stages()

    @classmethod
    def of_flow_run(cls, cfg: PipelineConfig, run: RunDir) -> ArtifactLogger:
        """For the flow run in progress."""
        return cls(ArtifactSender(UUID(str(flow_run.id)), run.root), cfg, run)

    def begin(self, stage: str) -> None:
        """The stage is in progress."""
        self.began = 0, time.monotonic()
        self._stages()

    def row(self, stage: str, row: Row) -> None:
        """Move the bar, every few seconds."""
        if time.monotonic() - self.updated_at >= UPDATE_EVERY_S:
            self.updated_at = time.monotonic()
            step, total = int(row["step"]), self.cfg.stages.of(stage).total_steps
            text = f"{stage}: step {step} of {total}, loss {row['loss']:.4g}{self._pace(step, total)}"
            self.sender.put(_key(stage), Artifact("progress", 100.0 * step / total, text))
            self._label()

    def _pace(self, step: int, total: int) -> str:
        """How fast it goes and how long it will take, once two rows have come."""
        first, since = self.began
        if not first:
            self.began = step, time.monotonic()
            return ""
        rate = (step - first) / max(time.monotonic() - since, 1e-9)
        return f", {rate:.1f} steps/s, {(total - step) / rate:.0f} s left" if rate > 0 else ""

    def completed(self, stage: str) -> None:
        """Fill the bar."""
        self.sender.put(_key(stage), Artifact("progress", 100.0, f"{stage}: completed"))
        self._stages()

    def report(self, gather: Callable[[], ReportPayload]) -> None:
        """Send the report."""
        self._report()

    def close(self, *, failed: bool) -> None:
        """Send the table and the report: the newest evaluation, and where the files are; a signal leaves no time."""
        self._stages()
        self._report()
        self.sender.close()

    def _report(self) -> None:
        text = report_in(self.run)
        self.sender.put(REPORT, Artifact("markdown", text, f"Report of {self.run.root.absolute()}"))

    def _stages(self) -> None:
        self._label()
        self.sender.put_stages(cells_of(overview_of(self.run, self.cfg)), f"Stages of {self.run.root.absolute()}")

    def _label(self) -> None:
        where = f"{host_label()}:{self.run.root.absolute()}"
        self.sender.put_labels(labels_of(read_status(self.run.status), where, self.cfg, self.began_at))


@contextmanager
def artifact_sender(root: Path) -> Iterator[ArtifactSender]:
    """The sender of the current flow run's artifacts."""
    sender = ArtifactSender(UUID(str(flow_run.id)), root)
    try:
        yield sender
    except Exception:  # what waits is sent, and the error raised again; a signal leaves no time for that
        sender.close()
        raise
    sender.close()


class RemoteStages:
    """Keeps the table of a remote training up to date from its W&B run: its machine need not reach Prefect."""

    def __init__(self, sender: ArtifactSender, cfg: PipelineConfig, status: Callable[[], Status | None]) -> None:
        self.sender, self.cfg, self.status = sender, cfg, status
        self.asked_at, self.stage = float("-inf"), ""

    def __call__(self, state: str, facts: Mapping[str, Any]) -> None:
        """Update the table when the stage has changed, and every half minute."""
        if "instance" not in facts:
            return
        now = time.monotonic()
        if facts["stage"] == self.stage and now - self.asked_at < ASK_EVERY_S:
            return
        self.asked_at, self.stage = now, facts["stage"]
        try:
            status = self.status() or Status()
        except (TrackingUnavailable, StatusError) as error:
            logger.warning("the table of stages was not updated: %s", error)
            return
        found = overview(status, self.cfg)
        stages = tuple(self._with_progress(row, facts["step"]) for row in found.stages)
        spent = f"{facts['usd_per_hour']:.3f} USD/h, {facts['spent_usd']:.2f} USD spent"
        rows = cells_of(replace(found, stages=stages))
        self.sender.put_stages(rows, f"{state}: instance {facts['instance']}, machine {facts['generation']}; {spent}")

    def _with_progress(self, row: StageRow, step: int) -> StageRow:
        """W&B's rows are newer than the last status that was uploaded."""
        if row.name != self.stage or row.status == "completed":
            return row
        return replace(row, status="in_progress", step=step, epoch=None)


def cells_of(found: Overview) -> list[Cells]:
    """The rows of the table, as text."""
    upload = found.upload
    uploaded = DASH if upload.version is None else upload.version + ("" if upload.current else ", older")
    stages = [
        {
            "stage": row.name,
            "status": row.status,
            "checkpoint": row.checkpoint or DASH,
            "result": DASH if row.loss is None else f"loss {row.loss:.4g}",
            "step": f"{row.step} of {row.total_steps}"
            + ("" if row.epoch is None else f", epoch {row.epoch} of {row.total_epochs}"),
            "seconds": _seconds(row.seconds),
            "uploaded": uploaded if row.started else DASH,
        }
        for row in found.stages
    ]
    evaluations = [
        {
            "stage": row.name,
            "status": row.status,
            "checkpoint": DASH,
            "result": DASH if row.nrmse is None else f"nRMSE {row.nrmse:.4f}",
            "step": DASH,
            "seconds": _seconds(row.seconds),
            "uploaded": DASH,
        }
        for row in found.evaluations
    ]
    return stages + evaluations


def key_ending(root: Path) -> str:
    """What the keys of a run directory's artifacts end in: its name and a digest of its path."""
    path = root.absolute()
    name = re.sub(r"[^a-z0-9]+", "-", path.name.lower()).strip("-") or "run"
    return f"{name}-{hashlib.sha256(str(path).encode()).hexdigest()[:6]}"


def _seconds(seconds: float | None) -> str:
    return DASH if seconds is None else f"{seconds:.0f}"


def _key(stage: str) -> str:
    """Keys hold no underscore."""
    return stage.replace("_", "-")
