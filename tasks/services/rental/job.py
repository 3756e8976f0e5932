"""A training as a job for rented machines: packed, put into its W&B run, and watched from there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.services.rental.bundle import build_job
from tasks.services.rental.code import Code
from tasks.services.run.code_version import VERSION
from tasks.services.run.paths import RunDir
from tasks.services.run.status import Status
from tasks.services.tracking.coordination import WandbCoordination
from tasks.services.tracking.protocols import RemoteProgress
from tasks.services.tracking.restoring import ResumeMode, fetch, look_up
from tasks.services.tracking.run_path import RunPath, path_of
from tasks.services.tracking.store import WandbStore, publish_job
from tasks.services.tracking.wandb_client import Session, open_session
from ups_models.config.schema import EvalConfig, PipelineConfig, TrackingConfig
from ups_models.errors import BadInput

PASSED_ON = ("WANDB_BASE_URL", "VAST_URL")


@dataclass(frozen=True)
class RemoteJob:
    """One training, by the W&B run that all its machines write to."""

    path: RunPath
    artifact: str
    digest: str
    code: str
    cfg: TrackingConfig
    device: str
    max_seconds: int
    shutdown: str
    key_is_in_account: bool = False

    @property
    def run_id(self) -> str:
        """The W&B run's id."""
        return self.path.id

    def identity(self) -> dict[str, str]:
        """Run, artifact, its digest, and the version of the code in it."""
        return {"run": str(self.path), "artifact": self.artifact, "digest": self.digest, "code": self.code}

    def acquire_fence(self, generation: int) -> None:
        """Let this attempt, and no earlier one, write to the run."""
        WandbCoordination(self.path, self.cfg).acquire_fence(generation)

    def progress(self) -> RemoteProgress:
        """How far the run is."""
        return WandbCoordination(self.path, self.cfg).progress()

    def status(self) -> Status | None:
        """The status in the newest set of the run; None before the first. Raises TrackingUnavailable, StatusError."""
        return WandbStore(self.path, self.cfg).status()

    def environment(self, generation: int) -> dict[str, str]:
        """What the bootstrap reads. The W&B key is taken from this process at the last moment, and only if it must."""
        environment = {
            "UPS_RUN": str(self.path),
            "UPS_ARTIFACT": self.artifact,
            "UPS_JOB": self.digest,
            "UPS_GENERATION": str(generation),
            VERSION: self.code,
            "UPS_DEVICE": self.device,
            "UPS_MAX_SECONDS": str(self.max_seconds),
            "UPS_SHUTDOWN": self.shutdown,
            "WANDB_MODE": "online",
            "WANDB_ERROR_REPORTING": "false",
            **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
        }
        if not self.key_is_in_account:
            key = os.environ.get("WANDB_API_KEY")
            if not key:
                raise BadInput(
                    "the machines need a W&B key: put it into WANDB_API_KEY, or into a Vast.ai account variable"
                )
            environment["WANDB_API_KEY"] = key
        return environment


def publish_job_of(
    cfg: PipelineConfig,
    evaluations: dict[str, EvalConfig],
    arguments: Sequence[str],
    *,
    code: Code,
    source: RunPath | None,
    mode: ResumeMode,
    max_seconds: int,
    shutdown: str,
) -> RemoteJob:
    """Pack the code and the config into the W&B run, before anything is rented.

    Raises RunNotFound under `must`, TrackingUnavailable, UploadFailed, BadInput for data that only this machine has.
    """
    if cfg.data.files or cfg.steady_data.files:
        raise BadInput(
            "data.files: names files of this machine, which a rented one does not have; let it fetch them "
            "(data.downloads: url and sha256) or generate its data (leave both empty)"
        )
    found = look_up(source, mode, cfg) if source is not None else None
    path = path_of(None, cfg.tracking) if source is None or mode == "never" else source
    resume = found is not None and mode != "never"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "job"
        run = RunDir.of(Path(scratch) / "run", Path("checkpoints"))
        where = ("--resume-from-wandb", "{}", "--resume-mode", "allow", "--run-dir", "../run")
        session = open_session(
            found.path if resume and found is not None else path,
            exists=resume,
            config={"launched": cfg.model_dump(mode="json")},
            run=run,
            cfg=cfg.tracking,
        )
        try:
            lines = [str(session.path) if word == "{}" else word for word in where]
            digest = build_job(folder, code, cfg, evaluations, [*lines, *arguments])
            artifact = publish_job(session, folder)
            if found is not None and mode == "never":
                _take_over(session, found_folder=fetch(found, mode, cfg, run))
        finally:
            session.finish(0)
    return RemoteJob(
        session.path, artifact, digest, code.version, cfg.tracking, cfg.runtime.device, max_seconds, shutdown
    )


def _take_over(session: Session, found_folder: tuple[Path, str] | None) -> None:
    """The checkpoints of another run, as the first set of this one."""
    if found_folder is not None:
        folder, _ = found_folder
        WandbStore(session.path, session.cfg, session=session).publish(folder, ())
        shutil.rmtree(folder)
