"""Training one stage in a run directory: load what it needs, fit, put its files in place, record it."""

import logging
import time
from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

from tasks.services.data.datasets import load_data, load_steady_data
from tasks.services.run import environment
from tasks.services.run.history import History
from tasks.services.run.lock import OwnedRun
from tasks.services.run.paths import RunDir
from tasks.services.run.phase import announce
from tasks.services.run.progress import Update, progress_of
from tasks.services.run.signals import StopRequest
from tasks.services.run.status import StatusStore, read_status
from tasks.services.run.uninterrupted import leave_if_stopped, uninterrupted
from tasks.services.stages.snapshot import read_inputs
from tasks.services.stages.threads import settle_threads
from tasks.services.tracking.tracker import Tracker
from ups_models.config.schema import PipelineConfig
from ups_models.data.fields import Fields
from ups_models.data.split import split_rows
from ups_models.errors import BadInput, Preempted
from ups_models.files import known_digest
from ups_models.stages.lineage import Lineage, read_lineage
from ups_models.stages.registry import STAGES
from ups_models.stages.spec import SPECS, StageSpec
from ups_models.stages.stage import Data
from ups_models.training.checkpoint import load_network, save_network
from ups_models.training.loop import Hooks, Progress, fit
from ups_models.training.parallel import World
from ups_models.training.state import TrainState, require_disk

logger = logging.getLogger(__name__)

HISTORY_ROWS = 250
MEASURED = ("step", "epoch", "loss", "grad_norm", "lr")
NOT_TRACKED = Tracker()


def select_device(cfg: PipelineConfig, threads: int | None = None) -> torch.device:
    """The device that the config asks for, its threads, else those of the run. Raises BadInput without CUDA."""
    wanted = cfg.runtime.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: PyTorch sees no CUDA device here; use --device cpu, or auto")
    if n_threads := cfg.runtime.threads or threads:
        torch.set_num_threads(n_threads)
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def train_stage_files(
    name: str, cfg: PipelineConfig, run: OwnedRun, *, fresh: bool, tracker: Tracker = NOT_TRACKED
) -> None:
    """Train stage `name` to its end and leave its two files, recorded as completed.

    `fresh` starts it again from nothing. When the process is asked to stop, the step is finished and the state saved;
    then what the signal raises is raised, or Preempted if that is nothing. An error is recorded in the status.
    """
    uninterrupted(partial(_Training(name, cfg, run, tracker).run_stage, fresh=fresh))


class _Training:
    """One stage being trained: what each of its moments writes."""

    def __init__(self, name: str, cfg: PipelineConfig, run: OwnedRun, tracker: Tracker) -> None:
        self.spec, self.cfg, self.run, self.tracker = SPECS[name], cfg, run, tracker
        self.status, self.history = StatusStore(run), History(run)
        self.settings = cfg.stages.of(name)
        self.total = self.settings.total_steps
        self.started, self.done = time.monotonic(), 0
        self.show: Update = lambda step, note: None

    @property
    def seconds(self) -> float:
        """Spent on the stage, by all processes that worked on it."""
        return time.monotonic() - self.started

    def run_stage(self, stop: StopRequest, *, fresh: bool) -> None:
        """All of it, to its end or to the end of the step in which it is asked to stop."""
        try:
            self._run(stop, fresh=fresh)
        except Preempted as error:
            logger.warning("%s", error)
            raise
        finally:
            if stop():
                self.tracker.preempted()

    def _run(self, stop: StopRequest, *, fresh: bool) -> None:
        announce("data")
        device = select_device(self.cfg)
        settle_threads(self.cfg, self.status, device)
        require_disk(self.run.checkpoints, STAGES[self.spec.name], self.cfg)
        data = training_data(self.spec, self.cfg, self.run)
        frozen = {name: load_stage(name, self.cfg, self.run, device) for name in self.spec.needs}
        facts = data.facts() if isinstance(data, Fields) else None
        lineage = Lineage.of(self.spec, self.cfg, read_inputs(self.spec, self.cfg, self.run), facts)
        stop.look()
        leave_if_stopped(self.spec.name)
        self._record_start(lineage, fresh=fresh)
        self.tracker.begin(self.spec.name)
        try:
            self._complete(self._fit(data, frozen, device, stop, lineage), lineage)
            self.tracker.completed(self.spec.name)
        except Preempted:
            raise
        except Exception as error:
            self.status.fail(self.spec.name, str(error) or type(error).__name__)
            raise

    def _record_start(self, lineage: Lineage, *, fresh: bool) -> None:
        """The files first, the status second: a crash in between must not leave an old state to a new beginning."""
        if fresh:
            self.run.forget_saved_states(self.spec.name)
            self.history.forget(self.spec.name)
        record = self.status.start(
            self.spec.name,
            fresh=fresh,
            total_epochs=self.settings.epochs,
            arch=lineage.arch,
            config_hash=lineage.config_hash,
            seed=self.cfg.seed,
            inputs=lineage.inputs,
        )
        self.started, self.done = time.monotonic() - (record.seconds or 0.0), record.step or 0

    def _fit(
        self,
        data: Data,
        frozen: Mapping[str, nn.Module],
        device: torch.device,
        stop: StopRequest,
        lineage: Lineage,
    ) -> TrainState:
        def on_start(step: int) -> None:
            if self.done and not step:  # no saved state can be used
                self._record_start(lineage, fresh=True)

        announce("training")
        with progress_of(self.spec.name, self.total, self.done) as self.show:
            return fit(
                STAGES[self.spec.name],
                self.cfg,
                data,
                frozen,
                device=device,
                resume_path=self.run.resume(self.spec.name),
                lineage=lineage,
                hooks=Hooks(on_start, self._on_step, self._on_epoch, partial(self._on_save, stop), stop),
                world=World(*environment.world()),
            )

    def _on_step(self, progress: Progress) -> None:
        self.show(progress.step, f"loss {progress.loss:.4g}")
        if progress.step % max(1, self.total // HISTORY_ROWS) == 0 or progress.step == self.total:
            row = {name: getattr(progress, name) for name in MEASURED}
            self.history.append(self.spec.name, row)
            self.tracker.row(self.spec.name, row)

    def _on_epoch(self, progress: Progress) -> None:
        logger.debug("%s: epoch %d done", self.spec.name, progress.epoch)

    def _on_save(self, stop: StopRequest, progress: Progress) -> None:
        self.status.progress(self.spec.name, epoch=progress.epoch, step=progress.step, seconds=self.seconds)
        self.tracker.saved()
        stop.look()

    def _complete(self, state: TrainState, lineage: Lineage) -> None:
        """Files first, status second, and only then the saved state goes."""
        self.run.check()
        spec = self.spec
        files = {
            file: save_network(self.run.checkpoint(file), net, lineage)
            for file, net in zip(spec.files, (state.net, state.ema), strict=True)
        }
        seconds = self.seconds
        rows = self.history.digest(spec.name)
        self.status.complete(
            spec.name, checkpoint=spec.checkpoint, files=files, step=state.step, seconds=seconds, history=rows
        )
        self.run.forget_saved_states(spec.name)
        path = self.run.checkpoint(spec.checkpoint)
        logger.info("%s: completed, %d steps in %.0f s -> %s", spec.name, state.step, seconds, path)


def adopt_stage_files(name: str, cfg: PipelineConfig, run: OwnedRun) -> None:
    """Check the files of a stage whose hand-written record names no digests, and record those.

    What the checkpoint says of its descent was compared when this was planned; one that says nothing of it may name
    its data and split. Raises CheckpointError, ArchitectureMismatch.
    """
    spec = SPECS[name]
    load_stage(name, cfg, run, torch.device("cpu"))
    files = {path: known_digest(run.checkpoint(path)) for path in spec.files if run.checkpoint(path).is_file()}
    lineage = read_lineage(run.checkpoint(spec.checkpoint))
    found = {"inputs": lineage.inputs, "config_hash": lineage.config_hash} if lineage is not None else {}
    inputs = {"inputs": read_inputs(spec, cfg, run), **found}
    StatusStore(run).adopt(name, files, arch=dict(spec.arch(cfg)), **inputs)


def training_data(spec: StageSpec, cfg: PipelineConfig, run: RunDir) -> Data:
    """The training rows of what the stage learns from."""
    if spec.steady:
        steady = load_steady_data(cfg, run)
        return steady.select(split_rows(steady.row, val=cfg.steady_data.val, test=cfg.steady_data.test).train)
    data = load_data(cfg, run)
    return data.select(split_rows(data.row, val=cfg.data.val, test=cfg.data.test).train)


def load_stage(name: str, cfg: PipelineConfig, run: RunDir, device: torch.device) -> nn.Module:
    """A completed stage's averaged weights, fixed. Raises CheckpointError when they are not what the status names."""
    spec = SPECS[name]
    record = read_status(run.status).stage(name)
    path = run.checkpoint(record.checkpoint or spec.checkpoint)
    known = (record.files or {}).get(path.name)
    net = STAGES[name].build(cfg)
    load_network(
        path,
        net,
        stage=name,
        arch=spec.arch(cfg),
        expected=known.digest if known else None,
        is_data_recipe=partial(spec.is_data_recipe, cfg=cfg),
    )
    return net.to(device).requires_grad_(False).eval()
