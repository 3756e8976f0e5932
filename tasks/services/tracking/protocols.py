"""What experiment tracking is to the rest of the program: metric loggers, a store of checkpoints, coordination."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tasks.services.run.history import Row
from tasks.services.run.status import Status
from ups_models.errors import RunLost, UPSError


class TrackingUnavailable(UPSError):
    """The tracking server did not answer, or refused the key."""


class FencedOut(RunLost):
    """Another machine has taken over this run."""


@dataclass(frozen=True)
class ReportPayload:
    """What was evaluated: the metrics of each evaluation by name, figures as PNG, and the HTML page."""

    metrics: Mapping[str, Mapping[str, float]]
    images: Mapping[str, bytes]
    html: str


class MetricLogger:
    """Shows what training measures; a logger overrides what it needs. No method may wait for a server: training waits.

    Whatever a logger raises is a warning, and after a few of them it gets nothing more.
    """

    def catch_up(self) -> None:
        """The run was opened: send what an earlier process could not."""

    def begin(self, stage: str) -> None:
        """A stage starts or resumes; rows measured before are in reports/metrics.jsonl."""

    def row(self, stage: str, row: Row) -> None:
        """A step was measured."""

    def completed(self, stage: str) -> None:
        """A stage's files are in place."""

    def report(self, gather: Callable[[], ReportPayload]) -> None:
        """Evaluations are done; `gather` draws the figures, so it is called only by a logger that shows them."""

    def preempted(self) -> None:
        """The process ends within a second or so; `close` may still be called."""

    def close(self, *, failed: bool) -> None:
        """The run is over."""


class CheckpointStore(Protocol):
    """Where whole sets of checkpoints outlive this machine. All methods raise TrackingUnavailable."""

    def publish(self, folder: Path, aliases: tuple[str, ...]) -> str:
        """Upload a set and wait until it is safe; its version. Raises UploadFailed, FencedOut."""

    def status(self) -> Status | None:
        """The status in the newest set; None where there is none. Raises StatusError."""

    def download_set(self, folder: Path) -> str | None:
        """Download the newest set; its name, or None where there is none."""

    def download_files(self, folder: Path) -> list[str]:
        """Download the checkpoints that an old version kept outside of sets; their names."""


@dataclass(frozen=True)
class ControllerRecord:
    """Who works on a run's machines, as the run itself says; of two, the one with the higher number counts."""

    number: int
    id: str
    host: str
    pid: int
    started_at: str
    seen_at: float
    """When it was last heard of, in seconds since 1970; 0: it has let go."""
    job: Mapping[str, str] = field(default_factory=dict)
    """What its machines run, as a launch notes it; it holds no secret."""


@dataclass(frozen=True)
class RemoteProgress:
    """How far a run is, as seen from another machine; `outcome` is (generation, exit code) of what ended last."""

    generation: int
    outcome: tuple[int, int] | None
    stage: str
    step: int
    state: str
    controller: ControllerRecord | None = None


class Coordination(Protocol):
    """One run on several machines, one after another. All methods raise TrackingUnavailable."""

    def acquire_fence(self, generation: int) -> None:
        """Let this machine generation write to the run from now on, and no earlier one."""

    def check_fence(self) -> None:
        """Raise FencedOut if a later machine generation than this process's writes to the run."""

    def record_exit(self, generation: int, code: int) -> None:
        """Record how a generation ended, unless a later one has the run."""

    def claim(self, record: ControllerRecord) -> None:
        """Write who works on the run's machines."""

    def progress(self) -> RemoteProgress:
        """How far the run is."""
