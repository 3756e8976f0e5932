"""Run the pipeline's command line here; write down its calls between modules and its reads of checkpoints.

    python probe.py TREE RESULT.json [flags of `ups train`]      (the standard library alone: it runs in any revision)

Calls: on the main thread and on the one that does a stage's work, from the call of the flow to the first training
step, or to the end of a flow that trains nothing.
A call counts if the function and the nearest function of ours that called it lie in different modules;
frames of others in between (Prefect, contextlib) are passed over. Entering a generator again, as leaving a context
manager does, is a call too. What runs while a module is imported or a log line is written does not count.

Bytes: what Python's file objects get from the kernel, reading ahead included; torch.load reads through one too. A
checkpoint opened in any other way (os.open without os.fdopen, "rb+") counts as a whole.
"""

import builtins
import io
import json
import logging
import os
import re
import runpy
import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

FIRST_STEP = re.compile(r"ups_models\.(train:train_step|training\.steps:Steps\.take)")
"""Of the first edition, and of ours."""
PACKAGES = ("flows", "tasks", "ups_models")
FLOWS = (("prefect.flows", "Flow.__call__"), ("flows.plain", "train_plainly"))
"""Where a run begins: with Prefect, or, where there is nothing to do for a server, without."""
PLAIN_OPEN = io.open
WORK = "work"
"""The name of that thread in tasks/services/run/uninterrupted.py."""


class Calls:
    """A profile function that counts the calls between modules of ours."""

    def __init__(self, tree: str) -> None:
        self.tree = tree + os.sep
        self.flow: FrameType | None = None
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.end = ""

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Begin at the call of the flow, count, and end at the first step or with the flow."""
        if self.end:
            sys.setprofile(None)
        elif self.flow is None:
            called = frame.f_globals.get("__name__"), frame.f_code.co_qualname
            self.flow = frame if event == "call" and called in FLOWS else None
        elif event == "return" and frame is self.flow:
            self.end = "end of the flow"
        elif event == "call" and (callee := self._ours(frame)):
            caller = self._caller(frame)
            if FIRST_STEP.fullmatch(callee):
                self.end = "first step"
            elif caller and caller.split(":")[0] != callee.split(":")[0]:
                self.pairs[caller, callee] += 1

    def in_thread(self, frame: FrameType, event: str, argument: Any) -> None:
        """The same in the thread of a stage's work; in no other."""
        if threading.current_thread().name == WORK:
            self(frame, event, argument)
        else:
            sys.setprofile(None)

    def _caller(self, callee: FrameType) -> str:
        """The nearest function of ours below the flow; none while a module is imported or a log line is written."""
        nearest, frame = "", callee
        while frame.f_back and frame is not self.flow:
            name = self._ours(frame)
            if name.endswith(":<module>") or frame.f_code.co_filename == logging.__file__:
                return ""
            nearest, frame = nearest or (name if frame is not callee else ""), frame.f_back
        return nearest

    def _ours(self, frame: FrameType) -> str:
        """A function of ours as `module:qualified name`; empty for others, and for those that dataclass writes."""
        module = frame.f_globals.get("__name__", "")
        ours = module.split(".")[0] in PACKAGES and frame.f_code.co_filename.startswith(self.tree)
        return f"{module}:{frame.f_code.co_qualname}" if ours else ""


class Checkpoint(io.FileIO):
    """A checkpoint that is read; the class counts the bytes of all of them."""

    read_bytes = 0

    def readinto(self, buffer: Any) -> int | None:
        size = super().readinto(buffer)
        Checkpoint.read_bytes += size or 0
        return size

    def readall(self) -> bytes:
        data = super().readall()
        Checkpoint.read_bytes += len(data)
        return data


def counted_open(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
    """open(), but a checkpoint that is only read counts by what is read of it."""
    if mode != "rb" or not is_checkpoint(file):
        return PLAIN_OPEN(file, mode, *rest, **options)
    raw = Checkpoint(file)
    Checkpoint.read_bytes -= os.fstat(raw.fileno()).st_size  # which count_opening added
    return io.BufferedReader(raw)


def count_opening(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: count a checkpoint as a whole where it is opened to be read, in whatever way."""
    if event != "open" or isinstance(arguments[0], int):  # of what is open already
        return
    if is_checkpoint(arguments[0]) and arguments[2] & os.O_ACCMODE != os.O_WRONLY:
        Checkpoint.read_bytes += Path(os.fsdecode(arguments[0])).stat().st_size


def is_checkpoint(file: Any) -> bool:
    """Whether this names a checkpoint that exists, or is open on one."""
    if isinstance(file, int):
        file = Path(f"/proc/self/fd/{file}").readlink()
    path = Path(os.fsdecode(file) if isinstance(file, str | bytes | os.PathLike) else "")
    return path.suffix == ".pt" and path.is_file()


def main() -> None:
    """Run the command line as its script does, and write what was seen."""
    tree, result, *flags = sys.argv[1:]
    sys.argv[:] = [f"{tree}/flows/pipeline.py", *flags]
    calls = Calls(tree)
    sys.addaudithook(count_opening)
    io.open = builtins.open = counted_open
    threading.setprofile(calls.in_thread)
    sys.setprofile(calls)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        sys.setprofile(None)
        pairs = [[*pair, count] for pair, count in calls.pairs.items()]
        seen = {"end": calls.end, "bytes": Checkpoint.read_bytes, "pairs": pairs}
        Path(result).write_text(json.dumps(seen), "utf-8")


if __name__ == "__main__":
    main()
