"""What the log of a rented machine says: the lines of its job, and those of onstart.sh."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.services.run.phase import PHASES, PREFIX, Phase
from ups_models.wording import shortened

ONSTART = "ups-onstart: "
"""How the lines of onstart.sh begin."""
EXIT, BEAT = f"{ONSTART}exit ", f"{ONSTART}alive "
TRAFFIC = re.compile(r" received (\d{1,18}) sent (\d{1,18})$")
MAX_LINE = 300


@dataclass(frozen=True)
class LogSigns:
    """What one look at a log shows of the life behind it."""

    lines: tuple[str, ...] = ()
    """The newest lines, without the heartbeats among them."""
    beat: str = ""
    """The newest heartbeat."""
    phase: Phase | None = None
    """The newest that was announced."""

    def has_grown_since(self, earlier: LogSigns) -> bool:
        """Whether lines were added; heartbeats alone push old lines out of what is looked at."""
        kept = len(self.lines)
        return bool(kept) and earlier.lines[-kept:] != self.lines


NO_SIGNS = LogSigns()
"""Before the first look."""


def signs_in(lines: Sequence[str]) -> LogSigns | None:
    """What the newest lines of a log show; None where it could not be read, or is empty."""
    if not lines:
        return None
    own = tuple(line.rstrip() for line in lines if BEAT not in line)
    beats = [line.rstrip() for line in lines if BEAT in line]
    announced = [phase for line in own if (phase := _phase_in(line)) is not None]
    return LogSigns(own, beats[-1] if beats else "", announced[-1] if announced else None)


def _phase_in(line: str) -> Phase | None:
    """As `ups-onstart: phase installing`, and `10:15:02 INFO    phase training`."""
    return next((phase for phase in PHASES if line.endswith(f" {PREFIX}{phase}")), None)


def traffic_in(signs: LogSigns) -> tuple[int, int] | None:
    """Bytes that the machine has received and sent since its script started, as its newest heartbeat tells."""
    found = TRAFFIC.search(signs.beat)
    return (int(found[1]), int(found[2])) if found is not None else None


def exit_code_in(lines: Sequence[str], generation: int) -> int | None:
    """The exit code that onstart.sh wrote for the job of this generation; None before its end."""
    for line in reversed(lines):
        if EXIT in line and line.rstrip().endswith(f"generation {generation}"):
            return int(line.partition(EXIT)[2].split()[0])
    return None


def saved_log(journal_path: Path, generation: int) -> Path:
    """Where the last lines of a machine are kept once it is gone."""
    return journal_path.with_name(f"machine-{generation}.log")


def fresh_lines(shown: Sequence[str], now: Sequence[str]) -> list[str]:
    """The lines of `now` that come after what was shown: both are the end of one growing text.

    The first line of `now` may be cut off in its middle.
    """
    for start in (0, 1):
        for count in range(min(len(shown), len(now) - start), 0, -1):
            if list(shown[-count:]) == list(now[start : start + count]):
                return list(now[start + count :])
    return list(now)


def whole_lines(text: str) -> list[str]:
    """The lines of a text, without a last one that is still being written."""
    return text[: text.rfind("\n") + 1].splitlines()


def last_line_of(text: str) -> str:
    """The last line of the job itself, fit to be quoted in a message; empty when it wrote nothing."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and ONSTART not in line]
    return shortened(lines[-1], MAX_LINE) if lines else ""
