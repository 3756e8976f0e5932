"""A file that somebody made up, read in a process of its own: was it read, refused in a line, or is there a fault?"""

import os
import random
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ups_models.errors import UPSError
from ups_models.wording import plain

LIMIT_S = 10.0
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

Reader = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """A file, and who reads it."""

    name: str
    path: Path
    read: Reader


@dataclass
class Count:
    """What became of the files of one kind."""

    files: int = 0
    refused: int = 0
    tracebacks: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        verdicts = [*self.tracebacks, *(f"{name}: longer than {LIMIT_S:g} s" for name in self.hangs)]
        head = f"{self.files} files, {self.refused} refused, {len(self.tracebacks)} tracebacks, {len(self.hangs)} hangs"
        return "\n".join([head, *verdicts])


def outcome_of(case: Case) -> str:
    """`read`, `refused`, or what is wrong with how it was refused."""
    try:
        case.read(case.path)
    except UPSError as error:
        text = plain(error)
        if len(str(error)) > 4000 or CONTROL.search(str(error)):
            return f"{case.name}: not one plain line: {text[:200]}"
        return "refused"
    except BaseException as error:  # noqa: BLE001 - that is what is looked for
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return f"{case.name}: {type(error).__name__} at {where}: {plain(error)[:200]}"
    return "read"


def count_of(cases: Iterable[Case]) -> Count:
    """What became of them."""
    count = Count()
    for case in cases:
        count.files += 1
        outcome = _in_a_process(case)
        if outcome is None:
            count.hangs.append(case.name)
        elif outcome == "refused":
            count.refused += 1
        elif outcome != "read":
            count.tracebacks.append(outcome)
    return count


def _in_a_process(case: Case) -> str | None:
    """The outcome of a case, or None where it took too long; a process that dies is told as such."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        outcome = outcome_of(case)
        os.write(writing, outcome.encode("utf-8", "replace")[:4000])
        os._exit(0)
    os.close(writing)
    deadline = time.monotonic() + LIMIT_S
    try:
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return None
            time.sleep(0.005)
        answer = os.read(reading, 4096).decode("utf-8", "replace")
        return answer or f"{case.name}: the process ended with {ended[1]}"
    finally:
        os.close(reading)


def changed(content: bytes, rng: random.Random) -> bytes:
    """The content with a few bytes flipped, taken out or put in."""
    found = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5])):
        place = rng.randrange(len(found))
        match rng.randrange(4):
            case 0:
                found[place] = rng.randrange(256)
            case 1:
                del found[place : place + rng.randrange(1, 6)]
            case 2:
                found[place:place] = rng.randbytes(rng.randrange(1, 5))
            case _:
                found[place] = rng.choice(b"(tR.Q}]sueabcqrKMJX\x85\x86\x87\x8a")
    return bytes(found)
