"""What the log of a rented machine says: the lines of its job, and those of onstart.sh."""

from collections.abc import Sequence
from pathlib import Path

from ups_models.wording import shortened

ONSTART = "ups-onstart: "
"""How the lines of onstart.sh begin."""
EXIT = f"{ONSTART}exit "
MAX_LINE = 300


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
