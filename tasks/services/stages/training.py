"""Training one stage in a run directory: load what it needs, fit, put its files in place, record it."""

import logging
import time
from functools import partial

import torch

from tasks.services.run.history import History
from tasks.services.run.lock import OwnedRun
from tasks.services.run.phase import announce
from tasks.services.run.progress import Update, progress_of
from tasks.services.run.signals import StopRequest
from tasks.services.run.status import StatusStore
from tasks.services.run.uninterrupted import leave_if_stopped, uninterrupted
from tasks.services.stages.inputs import StageInputs, load_stage, read_stage_inputs, select_device
from tasks.services.stages.processes import processes_for, train_in_processes
from tasks.services.stages.snapshot import read_inputs
from tasks.services.stages.threads import settle_threads
from tasks.services.stages.torchrun import train_together, world_of_torchrun
from tasks.services.tracking.tracker import Tracker
from ups_models.config.schema import PipelineConfig
from ups_models.errors import Preempted
from ups_models.files import known_digest
from ups_models.stages.lineage import Lineage, read_lineage
from ups_models.stages.registry import STAGES
from ups_models.stages.spec import SPECS
from ups_models.training.checkpoint import save_network
from ups_models.training.loop import Hooks, Progress
from ups_models.training.state import TrainState, require_disk

logger = logging.getLogger(__name__)

HISTORY_ROWS = 250
MEASURED = ("step", "epoch", "loss", "grad_norm", "lr")
NOT_TRACKED = Tracker()


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
        n_processes = processes_for(self.cfg, device)
        settle_threads(self.cfg, self.status, device, n_processes)
        require_disk(self.run.checkpoints, STAGES[self.spec.name], self.cfg)
        inputs = read_stage_inputs(self.spec.name, self.cfg, self.run, device)
        stop.look()
        leave_if_stopped(self.spec.name)
        self._record_start(inputs.lineage, fresh=fresh)
        self.tracker.begin(self.spec.name)
        try:
            self._complete(self._fit(inputs, n_processes, stop), inputs.lineage)
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

    def _fit(self, inputs: StageInputs, n_processes: int, stop: StopRequest) -> TrainState:
        def on_start(step: int) -> None:
            if self.done and not step:  # no saved state can be used
                self._record_start(inputs.lineage, fresh=True)

        announce("training")
        hooks = Hooks(on_start, self._on_step, self._on_epoch, partial(self._on_save, stop), stop)
        with progress_of(self.spec.name, self.total, self.done) as self.show:
            if n_processes > 1:
                train_in_processes(self.spec.name, self.cfg, self.run, n_processes, hooks)
                hooks = Hooks()  # all is done and saved, and only read here
            with world_of_torchrun(self.spec.name, self.cfg, inputs) as world:
                return train_together(self.spec.name, self.cfg, self.run, inputs, hooks, world)

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
