"""From a request to a Job: YAML, flags and paths, checked before the run is looked at."""

from pathlib import Path

from flows import shipped
from flows.requests.train import TrainRequest
from tasks.services.data.datasets import require_named_files
from tasks.services.run.config_file import checkpoint_dir_of, kept_config, require_own_folder
from tasks.services.run.lock import RunOwned, is_owned, owner_message
from tasks.services.run.own_files import trust_code
from tasks.services.run.paths import RunDir
from tasks.services.run.status import EVALUATIONS
from tasks.services.stages.deciding import decide
from tasks.services.stages.execution import require_networks
from tasks.services.stages.job import Job, Policy, Source
from tasks.services.stages.plan import Plan
from tasks.services.stages.snapshot import read_snapshot
from tasks.services.tracking.run_path import RunPath, has_key, tracking_mode
from ups_models.config.loading import load_config
from ups_models.config.schema import EvalConfig, PipelineConfig, TrackingConfig
from ups_models.errors import BadInput
from ups_models.peers import PEERS, require_peer
from ups_models.stages.spec import SPECS

QUICKSTART = Path("configs/quickstart.yaml")


def parse(request: TrainRequest) -> Job:
    """The job that a request asks for; no file of the run is opened. Raises BadInput, in one line, for bad input."""
    cfg, evaluations = configs_of(request)
    require_device(cfg)
    if cfg.stages.steady_prior.objective == "regression":
        raise BadInput(
            "stages.steady_prior.objective=regression gives one state, not a distribution: "
            "evaluations.peers=[regression] trains it beside the prior; use flow or crps"
        )
    path, source = source_of(request, cfg), None
    if path is not None:
        source = Source(path, request.resume_mode, request.force)
        require_tracking(cfg.tracking)
    return Job(
        cfg,
        RunDir.of(request.run_dir, cfg.checkpoint.dir),
        Policy(request.stage, request.auto_resume or source is not None, request.force_train, request.skip_training),
        evaluations,
        frozenset(name for name in evaluations if getattr(request, f"redo_{name}")),
        source,
    )


def configs_of(request: TrainRequest) -> tuple[PipelineConfig, dict[str, EvalConfig]]:
    """The pipeline's config, and those of the evaluations that are asked for. Raises ConfigError."""
    run = RunDir.of(request.run_dir, Path("checkpoints"))
    trust_code(run.code, run.status, request.trust_code)
    overrides = list(request.set)
    if request.device is not None:
        overrides.append(f"runtime.device={request.device}")
    numbers = {name: getattr(request, name) for name in ("threads", "processes")}
    overrides += [f"runtime.{name}={number}" for name, number in numbers.items() if number is not None]
    if request.init_from is not None:
        overrides += [f"stages.{stage}.init_from={path}" for stage, path in _weights_of(request.init_from).items()]
    cfg = load_config(find_config(request.config), overrides, schema=PipelineConfig)
    wanted = [name for name in EVALUATIONS if request.stage == "all" and not getattr(request, f"skip_{name}")]
    return cfg, {name: settings_of(cfg, name, getattr(request, f"{name}_config")) for name in wanted}


def settings_of(cfg: PipelineConfig, name: str, path: Path) -> EvalConfig:
    """Settings of an evaluation: of the file, and of the pipeline's config where no other file was asked for."""
    own = dict(getattr(cfg.evaluations, name)) if path == Path("configs") / f"{name}.yaml" else {}
    if name == "full_eval" and cfg.evaluations.peers:
        own["peers"] = list(cfg.evaluations.peers)
    settings = load_config(find_config(path), [f"{key}={value}" for key, value in own.items()], schema=EvalConfig)
    for peer in settings.peers:
        if peer in PEERS:
            require_peer(peer, cfg.data.grid)
    try:
        cfg.check_evaluation(settings)
    except ValueError as error:
        raise BadInput(f"{name}: {error}") from None
    return settings


def _weights_of(root: Path) -> dict[str, Path]:
    """The trained checkpoints of a run, by stage. Raises BadInput where there is none."""
    folder = root / checkpoint_dir_of(root)
    files = {stage: (folder / spec.checkpoint).absolute() for stage, spec in SPECS.items()}
    found = {stage: path for stage, path in files.items() if path.is_file()}
    if not found:
        raise BadInput(f"--init-from {root}: holds no checkpoints; name the directory of a trained run")
    return found


def source_of(request: TrainRequest, cfg: PipelineConfig) -> RunPath | None:
    """The W&B run to restore from, if one is named. Raises BadInput."""
    return RunPath.parse(request.resume_from_wandb, cfg.tracking) if request.resume_from_wandb is not None else None


def plan_of(job: Job) -> Plan:
    """What would be done for this job now, without owning the run; writes nothing. Raises what `decide` raises."""
    return decide(job, read_snapshot(job.cfg, job.run))


def require_feasible(job: Job) -> bool:
    """Refuse what can be refused without a server, before one is started; returns whether there is anything to do.

    Nothing is written; what was read of the run and of named data files is remembered for the work itself. Raises
    RunOwned, BadInput, ArchitectureMismatch, CheckpointError, DataError.
    """
    job.run.require_writable()
    require_own_folder(job.run, job.cfg)
    if is_owned(job.run):
        raise RunOwned(owner_message(job.run))
    if job.source is not None:  # what there is to do shows when the checkpoints are here
        require_named_files(job.cfg, job.run, SPECS, job.evaluations.values())
        require_networks(job.cfg, SPECS)
        return True
    plan = plan_of(job)
    for decision in plan.stages:
        start = job.cfg.stages.of(decision.stage).init_from
        if decision.action == "train" and start is not None and not start.is_file():
            raise BadInput(f"stages.{decision.stage}.init_from: {start}: no such checkpoint; name one, or leave it out")
    require_named_files(job.cfg, job.run, plan.needs_data, job.evaluations.values())
    require_networks(job.cfg, plan.trained)
    return not plan.idle


def find_config(path: Path) -> Path:
    """The path itself, or, where it does not exist, the config that we ship: `configs/smoke.yaml`, or just `smoke`."""
    if path.exists() or path.is_absolute():
        return path
    ours = (shipped(name) for name in (path, Path("configs") / path, Path("configs") / f"{path}.yaml"))
    return next((one for one in ours if one.is_file()), path)


def config_of_run(given: Path | None, run_dir: Path) -> Path:
    """The config that was given; else the one that the run keeps; else the quickstart's."""
    if given is not None:
        return find_config(given)
    return kept_config(RunDir.of(run_dir, Path())) or find_config(QUICKSTART)


def require_tracking(tracking: TrackingConfig, what: str = "--resume-from-wandb") -> None:
    """Raise BadInput when a W&B run is to be restored without a way to ask for it."""
    if tracking_mode(tracking) != "online":
        raise BadInput(
            f"{what} needs W&B online, but "
            + (
                "no key is set: put it into WANDB_API_KEY"
                if not has_key()
                else "tracking.mode or WANDB_MODE says not: unset it"
            )
        )


def require_device(cfg: PipelineConfig) -> None:
    """Raise BadInput when the config insists on CUDA and there is none."""
    if cfg.runtime.device == "cuda":
        from tasks.services.stages.inputs import select_device

        select_device(cfg)
