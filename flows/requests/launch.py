"""What a remote training may be asked for, and how it is carried out."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flows.requests.job import find_config, require_tracking
from flows.requests.train import StageChoice
from tasks.services.rental.bundle import onstart
from tasks.services.rental.code import GIT, code_to_send
from tasks.services.rental.controller import (
    Controller,
    Journal,
    Limits,
    Show,
    exclusive_controller,
    require_writable_journal,
)
from tasks.services.rental.job import RemoteJob, publish_job_of
from tasks.services.rental.providers.local import LocalProvider
from tasks.services.rental.providers.vast import MachineSpec, Provider, VastProvider
from tasks.services.rental.view import view
from tasks.services.run.attempts import ChainRun
from tasks.services.run.paths import JOURNAL
from tasks.services.tracking.restoring import ResumeMode
from tasks.services.tracking.run_path import RunPath
from ups_models.config.loading import load_config
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.errors import BadInput

logger = logging.getLogger(__name__)


class LaunchRequest(BaseModel):
    """Parameters of the flow train-on-vast. Holds no secret: keys come from the environment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: Path = Field(Path("configs/burgers_32dim.yaml"), description="Config of the pipeline.")
    resume_from_wandb: str | None = Field(
        None, description="Go on with this W&B run: id, project/id or entity/project/id."
    )
    resume_mode: ResumeMode = Field("allow", description="allow: go on with it or begin it; must; never: a new run.")
    auto_shutdown: bool = Field(True, description="Give every machine back when the training ends.")
    keep_on_failure: bool = Field(False, description="Leave the machine running when the training fails. It costs.")
    stage: StageChoice = Field("all", description="Train this stage alone; all: everything.")
    gpu: str = Field("RTX_4090", pattern=r"^[A-Za-z0-9][A-Za-z0-9 _-]{0,40}$", description="GPU, as Vast.ai names it.")
    num_gpus: int = Field(1, ge=1, le=1, description="GPUs in the machine; training uses one.")
    image: str = Field(MachineSpec.image, pattern=r"^[A-Za-z0-9][A-Za-z0-9./:@_-]{0,200}$", description="Docker image.")
    disk: float = Field(40.0, ge=8, le=4000, description="Disk in GB.")
    region: str | None = Field(None, pattern=r"^[A-Za-z]{2}$", description="Country of the machine, such as DE.")
    max_price: float = Field(0.5, gt=0, le=128, description="Most to pay for a machine, in USD per hour.")
    max_total_cost: float = Field(20.0, gt=0, le=100_000, description="Most to pay in all, in USD.")
    max_hours: float = Field(24.0, gt=0, le=10_000, description="Give up after so many hours.")
    interruptible: bool = Field(True, description="Bid for a machine that may be taken away, at a third of the price.")
    provider: Literal["vast", "local"] = Field("vast", description="local: this machine, to try it without an account.")
    code: str | None = Field(
        None, pattern=GIT, description="Send this commit, git:URL@COMMIT, instead of the checkout as it is."
    )
    set: tuple[str, ...] = Field((), description="Override a config value: latent.dim=64. May be given several times.")
    run_dir: Path = Field(Path(), description="Folder of the journal of rented machines.")
    poll_s: float = Field(10.0, gt=0, le=600, description="Look at the machine this often, in seconds.")
    lost_after_s: float = Field(
        120.0, gt=0, le=3600, description="Take a machine for lost when it was not running for so many seconds."
    )
    boot_timeout_s: float = Field(
        1200.0, gt=0, le=86_400, description="Give a machine up when it has not come up after so many seconds."
    )

    def wanted(self) -> MachineSpec:
        """The machine to look for."""
        return MachineSpec(
            gpu=self.gpu,
            num_gpus=self.num_gpus,
            disk_gb=self.disk,
            max_usd_per_hour=self.max_price,
            interruptible=self.interruptible,
            region=self.region,
            image=self.image,
            hours=self.max_hours,
        )

    @property
    def journal_path(self) -> Path:
        """Where it is noted what was rented."""
        return self.run_dir / JOURNAL


def provider_of(request: LaunchRequest) -> Provider:
    """The provider, ready to be asked. Raises ProviderRefused without a key."""
    if request.provider == "local":
        return LocalProvider(request.run_dir / "instances")
    return VastProvider()


def configs_of(request: LaunchRequest) -> tuple[PipelineConfig, dict[str, EvalConfig]]:
    """The pipeline's config and the evaluations, checked as on the machine that will use them."""
    cfg = load_config(find_config(request.config), list(request.set), schema=PipelineConfig)
    names = ("small_eval", "full_eval") if request.stage == "all" else ()
    return cfg, {name: load_config(find_config(Path(f"configs/{name}.yaml")), schema=EvalConfig) for name in names}


def require_sound(request: LaunchRequest) -> None:
    """Raise BadInput or ProviderRefused for what can be known to be wrong before anything is started or contacted."""
    cfg, _ = configs_of(request)
    require_tracking(cfg)
    source_of(request, cfg)
    provider_of(request)


def source_of(request: LaunchRequest, cfg: PipelineConfig) -> RunPath | None:
    """The W&B run to go on with, if one is named. Raises BadInput."""
    return RunPath.parse(request.resume_from_wandb, cfg.tracking) if request.resume_from_wandb else None


def job_of(request: LaunchRequest, provider: Provider, unfinished: Mapping[str, str] | None) -> RemoteJob:
    """Pack the job and put it into its W&B run; nothing is rented yet.

    A launch that was `cut_off` is gone on with as it was launched: a machine of it may be writing to the run.
    """
    cfg, evaluations = configs_of(request)
    require_tracking(cfg)
    source = source_of(request, cfg)
    arguments = ["--stage", request.stage] if request.stage != "all" else []
    shutdown = "never" if not request.auto_shutdown else "success" if request.keep_on_failure else "always"
    seconds = 1 + int(request.max_hours * 3600)  # the controller, whose clock began earlier, comes first
    if unfinished is not None:
        path = _unfinished_run(request, unfinished, source, cfg)
        device = cfg.runtime.device
        packed = (unfinished["artifact"], unfinished["digest"], unfinished.get("code", ""))
        job = RemoteJob(path, *packed, cfg.tracking, device, seconds, shutdown)
    else:
        with code_to_send(request.code) as code:
            job = publish_job_of(
                cfg,
                evaluations,
                arguments,
                code=code,
                source=source,
                mode=request.resume_mode,
                max_seconds=seconds,
                shutdown=shutdown,
            )
    if provider.has_account_variable("WANDB_API_KEY"):
        return RemoteJob(**{**vars(job), "key_is_in_account": True})
    return job


def _unfinished_run(
    request: LaunchRequest, unfinished: Mapping[str, str], source: RunPath | None, cfg: PipelineConfig
) -> RunPath:
    path = RunPath.parse(unfinished["run"], cfg.tracking)
    if source is not None and source.id != path.id:
        raise BadInput(
            f"{request.journal_path}: the launch of run {path} was stopped before its end and comes first: launch "
            "without --resume-from-wandb to go on with it, or choose another --run-dir"
        )
    logger.warning("the launch of run %s was cut off: going on with it", path)
    return path


Listener = Callable[[RemoteJob, PipelineConfig], Show]
"""Makes what else is to be told how a job goes."""


def run_launch(request: LaunchRequest, mirror: Listener | None = None, attempt: ChainRun | None = None) -> RemoteJob:
    """Rent, train, give back; returns when the training is complete.

    Raises GaveUp and Duplicate where another attempt makes no sense; what the ones before rented is given back then.
    """
    require_writable_journal(request.journal_path)
    provider = provider_of(request)
    with exclusive_controller(request.journal_path, wait=attempt is not None and attempt.has_predecessor):
        journal = Journal(request.journal_path)
        if attempt is not None:
            journal.answer(attempt)
            if journal.open_job is None:
                attempt.check_limit()
        return _run_controller(request, provider, journal, mirror, attempt)


def _run_controller(
    request: LaunchRequest, provider: Provider, journal: Journal, mirror: Listener | None, attempt: ChainRun | None
) -> RemoteJob:
    job = job_of(request, provider, journal.open_job)
    logger.info("run %s; if this launch is stopped: --resume-from-wandb %s", job.path, job.path)
    limits = Limits(
        max_usd=request.max_total_cost,
        max_hours=request.max_hours,
        poll_s=request.poll_s,
        lost_after_s=request.lost_after_s,
        boot_timeout_s=request.boot_timeout_s,
    )
    cfg = configs_of(request)[0]
    with view(cfg, str(job.path), limits.max_usd) as seen:
        told = [seen, *([mirror(job, cfg)] if mirror is not None else [])]

        def show(state: str, facts: Mapping[str, Any]) -> None:
            for tell in told:
                tell(state, facts)

        controller = Controller(
            provider,
            request.wanted(),
            job,
            onstart(),
            journal,
            limits,
            keep_on_failure=request.keep_on_failure,
            auto_shutdown=request.auto_shutdown,
            show=show,
        )
        if attempt is not None and attempt.exceeds_limit:
            controller.give_up()
            attempt.check_limit()
        controller.run()
    return job
