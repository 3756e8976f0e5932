"""Saving beside training: a state is copied where the loop stands, and a thread writes the copy."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor

from ups_models.stages.lineage import Lineage
from ups_models.training.state import TrainState, saved_form, write_state

Note = TypeVar("Note")


class Saver(Generic[Note]):
    """Writes the states of one stage, one at a time: whatever ends the process, one whole state is on the disk.

    Within its block. The memory of a copy is kept for the next one.
    """

    def __init__(self, path: Path, lineage: Lineage, *, with_previous: bool) -> None:
        self.path, self.lineage, self.with_previous = path, lineage, with_previous
        self.copy: dict[str, Any] = {}
        self.room: Future[dict[str, Any]] | None = None
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self.pending: tuple[Future[None], Note] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Wait for what is being written; an error of that does not hide the block's own."""
        self.writer.shutdown(wait=True)
        if kind is None:
            self.written(wait=True)

    def make_room(self, state: TrainState) -> None:
        """Have the memory of the first copy ready by the time that it is needed, whatever lies in it until then."""
        self.room = self.writer.submit(copied, saved_form(state, self.lineage))

    def save(self, state: TrainState, note: Note) -> None:
        """Copy the state as it is now, and have it written. What was saved before is `written` first."""
        if self.room is not None:
            self.copy, self.room = self.room.result(), None
        self.copy = copied(saved_form(state, self.lineage), self.copy)
        self.pending = self.writer.submit(self._write, self.copy, state.step), note

    def written(self, *, wait: bool = False) -> Note | None:
        """The note of a state that has reached the disk since this was asked last. Raises StorageError."""
        if self.pending is None or not (wait or self.pending[0].done()):
            return None
        (future, note), self.pending = self.pending, None
        future.result()
        return note

    def _write(self, form: dict[str, Any], step: int) -> None:
        write_state(self.path, form, self.lineage.model_copy(update={"step": step}), with_previous=self.with_previous)


def copied(value: Any, into: Any = None, *, to_cpu: bool = True) -> Any:
    """Tensors copied at any depth, to the CPU or where they are; into those of an earlier copy where one fits."""
    if isinstance(value, Tensor):
        fits = isinstance(into, Tensor) and into.shape == value.shape and into.dtype == value.dtype
        device = "cpu" if to_cpu else value.device
        room = into if fits else torch.empty_like(value, device=device, pin_memory=to_cpu and value.is_cuda)
        return room.copy_(value.detach())
    if isinstance(value, Mapping):
        kept = into if isinstance(into, Mapping) else {}
        return {key: copied(one, kept.get(key), to_cpu=to_cpu) for key, one in value.items()}
    return value
