"""What runs on rented machines: one training, packed, put into its W&B run, and followed from there."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from tasks.services.rental.bundle import build_job
from tasks.services.rental.code import Code
from tasks.services.run import environment
from tasks.services.run.paths import RunDir
from tasks.services.run.status import Status
from tasks.services.tracking.coordination import WandbCoordination
from tasks.services.tracking.protocols import ControllerRecord, RemoteProgress
from tasks.services.tracking.restoring import ResumeMode, fetch, look_up
from tasks.services.tracking.run_path import RunPath, path_of
from tasks.services.tracking.store import WandbStore, publish_job
from tasks.services.tracking.wandb_client import Session, open_session
from ups_models.config.schema import EvalConfig, PipelineConfig, TrackingConfig
from ups_models.errors import BadInput

WANDB_KEY = "WANDB_API_KEY"
PASSED_ON = ("WANDB_BASE_URL",)


class Job(Protocol):
    """A job as the controller of its machines sees it."""

    @property
    def run_id(self) -> str:
        """The W&B run's id: all machines of one job write to it."""

    def identity(self) -> dict[str, str]:
        """What is needed to resume it after the controller was killed; it holds no secret."""

    def acquire_fence(self, generation: int) -> None:
        """Let this machine generation, and no earlier one, write to the run. Raises TrackingUnavailable."""

    def environment(self, generation: int) -> dict[str, str]:
        """Variables of the machine, secrets included: made at the last moment, kept nowhere."""

    def progress(self) -> RemoteProgress:
        """How far the run is. Raises TrackingUnavailable."""


@dataclass(frozen=True)
class Published:
    """A job in its W&B run: the artifact that holds it, its digest, and the version of the code in it."""

    path: RunPath
    artifact: str
    digest: str
    code: str

    @classmethod
    def parse(cls, identity: Mapping[str, str], cfg: TrackingConfig) -> Self:
        """From what `identity` returned."""
        run = RunPath.parse(identity["run"], cfg)
        return cls(run, identity["artifact"], identity["digest"], identity.get("code", ""))

    def identity(self) -> dict[str, str]:
        """The same as text, for the journal."""
        return {"run": str(self.path), "artifact": self.artifact, "digest": self.digest, "code": self.code}


@dataclass(frozen=True, kw_only=True)
class RemoteJob(Published):
    """A published job, and how it runs on a machine; its state is all in its W&B run."""

    cfg: TrackingConfig
    device: str
    max_seconds: int
    shutdown: str
    key_is_in_account: bool

    @property
    def run_id(self) -> str:
        """The W&B run's id."""
        return self.path.id

    def acquire_fence(self, generation: int) -> None:
        """Name the generation in the run."""
        WandbCoordination(self.path, self.cfg).acquire_fence(generation)

    def claim(self, record: ControllerRecord) -> None:
        """Name the controller in the run."""
        WandbCoordination(self.path, self.cfg).claim(record)

    def progress(self) -> RemoteProgress:
        """How far the run is."""
        return WandbCoordination(self.path, self.cfg).progress()

    def status(self) -> Status | None:
        """The status in the newest set of the run; None before the first. Raises TrackingUnavailable, StatusError."""
        return WandbStore(self.path, self.cfg).status()

    def environment(self, generation: int) -> dict[str, str]:
        """What onstart.sh reads; the W&B key only if the account does not hand it on."""
        variables = {
            environment.RUN: str(self.path),
            "UPS_ARTIFACT": self.artifact,
            "UPS_JOB": self.digest,
            environment.GENERATION: str(generation),
            environment.CODE: self.code,
            environment.DEVICE: self.device,
            "UPS_MAX_SECONDS": str(self.max_seconds),
            "UPS_SHUTDOWN": self.shutdown,
            "WANDB_MODE": "online",
            "WANDB_ERROR_REPORTING": "false",
            **environment.selected(PASSED_ON),
        }
        if self.key_is_in_account:
            return variables
        if not environment.is_set(WANDB_KEY):
            raise BadInput(
                f"the machines need a W&B key: put it into {WANDB_KEY}, or into a variable of the provider's account"
            )
        return {**variables, **environment.selected((WANDB_KEY,))}


def require_portable_data(cfg: PipelineConfig) -> None:
    """Raise BadInput for data that only this machine has."""
    if cfg.data.files or cfg.steady_data.files:
        raise BadInput(
            "data.files: names files of this machine, which a rented one does not have; let it fetch them "
            "(data.downloads; `ups data upload` puts them into W&B) or generate its data (leave both empty)"
        )


def publish(
    cfg: PipelineConfig,
    evaluations: dict[str, EvalConfig],
    arguments: Sequence[str],
    *,
    code: Code,
    source: RunPath | None,
    mode: ResumeMode,
) -> Published:
    """Pack the code and the config into the W&B run, before anything is rented.

    Raises RunNotFound under `must`, TrackingUnavailable, UploadFailed, BadInput for data that only this machine has.
    """
    require_portable_data(cfg)
    found = look_up(source, mode, cfg) if source is not None else None
    path = path_of(None, cfg.tracking) if source is None or mode == "never" else source
    resumed = found if mode != "never" else None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "job"
        run = RunDir.of(Path(scratch) / "run", Path("checkpoints"))
        session = open_session(
            resumed.path if resumed is not None else path,
            exists=resumed is not None,
            config={"launched": cfg.model_dump(mode="json")},
            run=run,
            cfg=cfg.tracking,
        )
        try:
            where = ("--resume-from-wandb", str(session.path), "--resume-mode", "allow", "--run-dir", "../run")
            digest = build_job(folder, code, cfg, evaluations, [*where, *arguments])
            artifact = publish_job(session, folder)
            if found is not None and resumed is None:
                _publish_checkpoints(session, fetch(found, mode, cfg.tracking, run))
        finally:
            session.finish(0)
    return Published(session.path, artifact, digest, code.version)


def _publish_checkpoints(session: Session, fetched: tuple[Path, str] | None) -> None:
    """Make the checkpoints of another run the first set of this one."""
    if fetched is not None:
        WandbStore(session.path, session.cfg, session=session).publish(fetched[0], ())
        shutil.rmtree(fetched[0])
