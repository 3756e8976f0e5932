"""Training one stage in a run directory: load what it needs, fit, put its files in place, record it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import torch
from torch import nn

from tasks.services.data.datasets import load_data, load_steady_data
from tasks.services.run.history import History
from tasks.services.run.lock import OwnedRun
from tasks.services.run.paths import RunDir
from tasks.services.run.progress import progress_of
from tasks.services.run.signals import StopRequest, stop_request
from tasks.services.run.status import StatusStore, read_status
from tasks.services.stages.snapshot import inputs_of, read_snapshot, saved_state
from tasks.services.tracking.wandb_tracking import Tracker
from ups_models.config.schema import PipelineConfig
from ups_models.data.pdebench import SteadyFields, Trajectories, split_rows
from ups_models.errors import BadInput, Preempted
from ups_models.files import known_digest
from ups_models.stages.registry import STAGES, Stage
from ups_models.stages.spec import SPECS
from ups_models.training.checkpoint import load_network, save_network
from ups_models.training.loop import Progress, TrainState, fit

logger = logging.getLogger(__name__)

HISTORY_ROWS = 250
MEASURED = ("step", "epoch", "loss", "grad_norm", "lr")
NOT_TRACKED = Tracker()


def select_device(cfg: PipelineConfig) -> torch.device:
    """The device that the config asks for, and torch's threads as it asks. Raises BadInput without CUDA."""
    wanted = cfg.runtime.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: PyTorch sees no CUDA device here; use --device cpu, or auto")
    if cfg.runtime.threads:
        torch.set_num_threads(cfg.runtime.threads)
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def train_stage_files(
    name: str, cfg: PipelineConfig, run: OwnedRun, *, fresh: bool, tracker: Tracker = NOT_TRACKED
) -> None:
    """Train stage `name` to its end and leave its two files, recorded as completed.

    `fresh` starts it again from nothing. When the process is asked to stop, the state is saved and the signal is then
    handed to whoever handled it before; raises Preempted if nobody did. An error is recorded in the status and raised.
    """
    stage, status, history = STAGES[name], StatusStore(run), History(run.history)
    spec = stage.spec
    device = select_device(cfg)
    data = training_data(stage, cfg, run)
    frozen = frozen_networks(stage, cfg, run, device)
    if fresh:  # before the status says so: a crash in between must not leave an old state to a new beginning
        run.forget_saved_states(name)
        history.forget(name)
    else:
        use_newest_whole_state(run, name)
    status.start(
        name,
        fresh=fresh,
        total_epochs=spec.settings(cfg).epochs,
        arch=spec.arch(cfg),
        config_hash=spec.config_hash(cfg),
        seed=cfg.seed,
        inputs=inputs_of(spec, cfg, read_snapshot(cfg, run, keep=True)),
    )
    tracker.begin(name)
    clock = Clock(status.read().stage(name).seconds or 0.0)
    preempted = None
    with stop_request() as stop:
        try:
            state = _fit(stage, cfg, run, data, frozen, device, stop, clock, tracker)
            _complete(stage, cfg, run, state, status, clock)
            tracker.completed(name)
        except Preempted as error:
            preempted = error
        except Exception as error:
            run.check()
            status.fail(name, str(error) or type(error).__name__)
            raise
    if preempted is not None:
        logger.warning("%s", preempted)
    if stop():
        tracker.preempted()
    stop.deliver()
    if preempted is not None:
        raise preempted


class Clock:
    """Seconds spent on a stage, those of earlier attempts included."""

    def __init__(self, before_s: float) -> None:
        self.started = time.monotonic() - before_s

    @property
    def elapsed_s(self) -> float:
        """Until now."""
        return time.monotonic() - self.started


def _complete(
    stage: Stage, cfg: PipelineConfig, run: OwnedRun, state: TrainState, status: StatusStore, clock: Clock
) -> None:
    """Files first, status second, and only then the saved state goes."""
    run.check()
    spec = stage.spec
    files = {
        path: save_network(
            run.checkpoint(path), net, stage=spec.name, arch=spec.arch(cfg), data_recipe=spec.data_recipe(cfg)
        )
        for path, net in zip(spec.files, (state.net, state.ema), strict=True)
    }
    status.complete(spec.name, checkpoint=spec.checkpoint, files=files, step=state.step, seconds=clock.elapsed_s)
    run.forget_saved_states(spec.name)
    logger.info(
        "%s: completed, %d steps in %.0f s -> %s",
        spec.name,
        state.step,
        clock.elapsed_s,
        run.checkpoint(spec.checkpoint),
    )


def use_newest_whole_state(run: OwnedRun, stage: str) -> None:
    """Put the newest saved state that can be read where training looks for it."""
    path = saved_state(run.saved_states(stage)).path
    if path is not None and path != run.resume(stage):
        path.replace(run.resume(stage))


def adopt_stage_files(name: str, cfg: PipelineConfig, run: OwnedRun) -> None:
    """Check the files of a stage whose hand-written record names no digests, and record those.

    Raises CheckpointError, ArchitectureMismatch.
    """
    spec = SPECS[name]
    load_stage(name, cfg, run, torch.device("cpu"))
    files = {path: known_digest(run.checkpoint(path)) for path in spec.files if run.checkpoint(path).is_file()}
    inputs = inputs_of(spec, cfg, read_snapshot(cfg, run, keep=True))
    StatusStore(run).adopt(name, files=files, arch=spec.arch(cfg), inputs=inputs)


def training_data(stage: Stage, cfg: PipelineConfig, run: RunDir) -> Trajectories | SteadyFields:
    """The training rows of what the stage learns from."""
    if stage.spec.steady:
        steady = load_steady_data(cfg, run)
        return steady.select(split_rows(steady.row, val=cfg.steady_data.val, test=cfg.steady_data.test).train)
    data = load_data(cfg, run)
    return data.select(split_rows(data.row, val=cfg.data.val, test=cfg.data.test).train)


def frozen_networks(stage: Stage, cfg: PipelineConfig, run: RunDir, device: torch.device) -> Mapping[str, nn.Module]:
    """The averaged weights of the stages this one needs, verified, ready and fixed."""
    return {name: load_stage(name, cfg, run, device) for name in stage.spec.needs}


def load_stage(name: str, cfg: PipelineConfig, run: RunDir, device: torch.device) -> nn.Module:
    """A completed stage's averaged weights. Raises CheckpointError when they are not what the status names."""
    spec = SPECS[name]
    record = read_status(run.status).stage(name)
    path = run.checkpoint(record.checkpoint or spec.checkpoint)
    known = (record.files or {}).get(path.name)
    net = STAGES[name].build(cfg)
    load_network(path, net, stage=name, arch=spec.arch(cfg), expected=known.digest if known else None)
    return net.to(device).requires_grad_(False).eval()


def _fit(
    stage: Stage,
    cfg: PipelineConfig,
    run: OwnedRun,
    data: Trajectories | SteadyFields,
    frozen: Mapping[str, nn.Module],
    device: torch.device,
    stop: StopRequest,
    clock: Clock,
    tracker: Tracker,
) -> TrainState:
    status, history = StatusStore(run), History(run.history)
    total = stage.spec.settings(cfg).total_steps
    every = max(1, total // HISTORY_ROWS)
    done = status.read().stage(stage.name).step or 0

    with progress_of(stage.name, total, done) as update:

        def on_step(progress: Progress) -> None:
            update(progress.step, f"loss {progress.loss:.4g}")
            if progress.step % every == 0 or progress.step == total:
                row = {name: getattr(progress, name) for name in MEASURED}
                history.append(stage.name, row)
                tracker.row(stage.name, row)

        def on_save(progress: Progress) -> None:
            status.progress(stage.name, epoch=progress.epoch, step=progress.step, seconds=clock.elapsed_s)
            tracker.saved()

        return fit(
            stage,
            cfg,
            data,
            frozen,
            device=device,
            resume_path=run.resume(stage.name),
            on_step=on_step,
            on_epoch=lambda progress: logger.debug("%s: epoch %d done", stage.name, progress.epoch),
            on_save=on_save,
            should_stop=stop,
        )
