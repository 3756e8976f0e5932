"""What the log of a rented machine says: the lines of its job, and those of onstart.sh."""

from collections.abc import Sequence

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


def last_line_of(text: str) -> str:
    """The last line of the job itself, fit to be quoted in a message; empty when it wrote nothing."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and ONSTART not in line]
    return shortened(lines[-1], MAX_LINE) if lines else ""
