"""Each protection switched off in turn: the harness must notice every time, or it guards nothing."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows import dag
from tasks.services.run import signals
from tasks.services.run.lock import OwnedRun
from tasks.services.run.paths import RunDir
from tasks.services.run.status import StatusStore
from tasks.services.stages import execution, training
from tasks.services.stages import plan as planning
from ups_models import files
from ups_models.training import checkpoint, loop
from ups_models.training import state as train_state
from ups_models.training.state import TrainState


def write_in_place() -> None:
    """No temporary file, no rename: a kill while writing leaves half a file under the real name."""

    @contextmanager
    def in_place(path: Path) -> Iterator[Path]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        files._crash_point("temporary created", path)
        yield path
        files._crash_point("renamed", path)

    _replace(files, "atomic_path", in_place)


def forget_ema() -> None:
    """The average is not restored: it starts again from the weights."""
    _after_load(lambda state: state.ema.load_state_dict(state.net.state_dict()))


def forget_step() -> None:
    """The step is not restored exactly: one step is done twice."""

    def step_back(state: TrainState) -> None:
        state.step -= 1

    _after_load(step_back)


def trust_every_file() -> None:
    """Digests and checksums are not looked at."""
    _replace(planning, "_damage", lambda *_: None)
    _replace(checkpoint, "_verify", lambda *_: None)


def no_lock() -> None:
    """Anyone may work on a run."""

    @contextmanager
    def unlocked(run: RunDir) -> Iterator[OwnedRun]:
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        with run.lock.open("ab") as file:
            yield OwnedRun(run.root, run.checkpoints, file)

    _replace(dag, "owned", unlocked)


def no_thread() -> None:
    """SIGTERM takes effect where the process stands, be it in the middle of a step."""
    _replace(execution, "uninterrupted", lambda work: work(signals.StopRequest()))
    _replace(training, "uninterrupted", lambda work: work(signals.StopRequest()))


def status_before_files() -> None:
    """A stage is called completed before its files are in place."""
    save, complete = checkpoint.save_network, StatusStore.complete
    waiting: list[Callable[[], Any]] = []

    def remember(path: Path, *arguments: Any, **options: Any) -> files.FileDigest:
        waiting.append(lambda: save(path, *arguments, **options))
        with tempfile.TemporaryDirectory() as elsewhere:
            return save(Path(elsewhere) / path.name, *arguments, **options)

    def complete_first(self: StatusStore, *arguments: Any, **options: Any) -> None:
        complete(self, *arguments, **options)
        for write in waiting:
            write()
        waiting.clear()

    _replace(training, "save_network", remember)
    _replace(StatusStore, "complete", complete_first)


def ambient_randomness() -> None:
    """Random numbers come from the process, not from (seed, stage, step)."""
    source = random.Random(os.getpid())
    for module in (loop, train_state):
        _replace(module, "derive_seed", lambda *_: source.getrandbits(63))


MUTATIONS: dict[str, Callable[[], None]] = {
    "fsync and rename": write_in_place,
    "EMA in the state": forget_ema,
    "the step": forget_step,
    "the digest check": trust_every_file,
    "the lock": no_lock,
    "the signal flag": no_thread,
    "file before status": status_before_files,
    "counter-based randomness": ambient_randomness,
}


def _after_load(change: Callable[[TrainState], None]) -> None:
    load = train_state.load_state

    def load_and_change(path: Path, state: TrainState, *rest: Any) -> None:
        load(path, state, *rest)
        change(state)

    _replace(loop, "load_state", load_and_change)


def _replace(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)
