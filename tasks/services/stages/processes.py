"""Training a stage with several processes: torchrun as a child, what its ranks report, and how they are stopped."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from tasks.services.run import environment
from tasks.services.run.paths import RunDir
from tasks.services.stages.channel import ENDINGS, FAILED, SAVED, STARTED, STEPPED, STOPPED, Channel
from ups_models import errors
from ups_models.children import end_with_parent
from ups_models.config.schema import PipelineConfig
from ups_models.errors import BadInput, Preempted, UPSError
from ups_models.reading import last_line
from ups_models.training.loop import Hooks, Progress
from ups_models.wording import plain

logger = logging.getLogger(__name__)

RESTARTS = 3
"""Of all ranks by torchrun after one has died, and of torchrun itself."""
LOOK_EVERY_S = 0.05
STOP_WITHIN_S, END_WITHIN_S = 600.0, 10.0
"""For the ranks to save after they were asked, and for torchrun to end after they have."""


class RanksFailed(UPSError):
    """The processes that train together died again and again."""


def processes_for(cfg: PipelineConfig, device: torch.device) -> int:
    """How many processes train a stage: as the config says, else one for each GPU. Raises BadInput."""
    if environment.world()[1] > 1:  # those of a torchrun that is there already
        return 1
    wanted, shards = cfg.runtime.processes, cfg.training.shards
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    if wanted == "auto":
        return max(1, min(gpus, shards))
    if gpus and wanted > gpus:
        raise BadInput(f"runtime.processes={wanted}, but there are {gpus} GPUs here; use --processes {gpus}")
    return wanted


def train_in_processes(stage: str, cfg: PipelineConfig, run: RunDir, n_processes: int, hooks: Hooks) -> None:
    """Train a stage to its end, which is then its saved state. Raises Preempted, RanksFailed, what a rank raised.

    A rank that dies ends the others, and torchrun starts all again where the last saved state is; where torchrun dies,
    another one is started. Whatever ends this process ends them too.
    """
    folder = Path(mkdtemp(prefix="ups-ranks-"))
    try:
        for attempt in range(1 + RESTARTS):
            channel = Channel(folder / str(attempt))
            channel.logs.mkdir(parents=True)
            channel.put_job(stage, cfg, run, torch.get_num_threads())
            last = _Torchrun(channel, n_processes, hooks).run()
            if last is not None:
                _raise_unless_done(last, channel)
                return
            logger.warning("%s: torchrun ended without a word; %s", stage, _last_line(channel))
        raise RanksFailed(
            f"{stage}: its {n_processes} processes died {1 + RESTARTS} times; {_last_line(channel)}. What was saved "
            "is kept: --auto-resume goes on, with --processes 1 in this process"
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Torchrun:
    """One torchrun and its ranks."""

    def __init__(self, channel: Channel, n_processes: int, hooks: Hooks) -> None:
        self.channel, self.hooks = channel, hooks
        self.listeners = [channel.listen(rank) for rank in range(n_processes)]
        self.last: Mapping[str, Any] | None = None
        with (channel.logs / "torchrun").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes", "1"),
                    *("--nproc-per-node", str(n_processes), "--max-restarts", str(RESTARTS)),
                    *("--log-dir", str(channel.logs), "--redirects", "3"),
                    *("-m", "tasks.services.stages.rank", str(channel.folder)),
                ],
                env=environment.child(OMP_NUM_THREADS=str(torch.get_num_threads()), PYTHONPATH=_path()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # what a terminal sends is for the owner, which asks the ranks to stop
                preexec_fn=end_with_parent,  # noqa: PLW1509 - it makes one call
            )

    def run(self) -> Mapping[str, Any] | None:
        """Listen until the stage has ended; None where torchrun ended without one."""
        stop_by: float | None = None
        try:
            while self.process.poll() is None and self.last is None:
                self._receive()
                if stop_by is None and self.hooks.should_stop():
                    self.channel.ask_to_stop()
                    stop_by = time.monotonic() + STOP_WITHIN_S
                if stop_by is not None and time.monotonic() > stop_by:
                    raise RanksFailed(f"the ranks did not stop within {STOP_WITHIN_S:g} s, and were ended")
                time.sleep(LOOK_EVERY_S)
            self._receive()
            self._wait_for_end()
            return self.last
        finally:
            self._end()

    def _receive(self) -> None:
        for rank, listener in enumerate(self.listeners):
            for event in listener.received():
                if event["event"] in ENDINGS and (rank == 0 or event["event"] == FAILED):
                    self.last = self.last or event
                elif rank == 0:
                    self._pass_on(event)

    def _pass_on(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == STARTED:
            self.hooks.on_start(event["step"])
        elif kind in (STEPPED, SAVED):
            progress = Progress(**event["progress"])
            (self.hooks.on_step if kind == STEPPED else self.hooks.on_save)(progress)

    def _wait_for_end(self) -> None:
        """The ranks have nothing left to do; one that hangs is ended."""
        if self.last is not None and self.last["event"] != FAILED:
            try:
                self.process.wait(END_WITHIN_S)
            except subprocess.TimeoutExpired:
                logger.warning("torchrun did not end within %g s of the end of its ranks", END_WITHIN_S)

    def _end(self) -> None:
        """Nothing of it outlives this call: the ranks end with torchrun, by the kernel."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _raise_unless_done(last: Mapping[str, Any], channel: Channel) -> None:
    if last["event"] == STOPPED:
        raise Preempted(last["message"])
    if last["event"] == FAILED:
        kind = getattr(errors, last["kind"], UPSError)
        raise kind(channel.in_words_of_the_run(last["message"]))


def _last_line(channel: Channel) -> str:
    """What the ranks printed last, for a person."""
    paths = [*sorted(channel.logs.rglob("*.log")), channel.logs / "torchrun"]
    last = next(filter(None, (last_line(path) for path in paths if path.is_file())), "")
    return f"its last line: {plain(last)}" if last else "it printed nothing"


def _path() -> str:
    """Where the ranks find the code: where this process has found it."""
    root = str(Path(__file__).resolve().parents[3])
    known = environment.get("PYTHONPATH")
    return os.pathsep.join([root, known] if known else [root])
