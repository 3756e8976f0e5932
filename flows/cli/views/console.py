"""Standard output and standard error, for people and for whoever reads them line by line."""

import logging
import os
import sys
from typing import Any, TextIO

from ups_models.errors import BadInput
from ups_models.wording import LONGEST_MESSAGE, plain, plain_lines, shortened


def echo(text: str) -> None:
    """Write lines at once: the output may be a log that somebody follows. Whoever has stopped reading is no error."""
    try:
        print(plain_lines(text), flush=True)  # noqa: T201 - the one printer of the command line
    except BrokenPipeError:
        _discard(sys.stdout)


def agreed(question: str) -> bool:
    """Whether a person says yes. Raises BadInput where nobody is there to answer."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        raise BadInput("nobody is there to answer; --yes does it without asking") from None


def complain(error: object) -> None:
    """Write one line on stderr: what is wrong, where, and what to do."""
    try:
        sys.stderr.write(f"ups: {shortened(error, LONGEST_MESSAGE)}\n")
        sys.stderr.flush()
    except BrokenPipeError:
        _discard(sys.stderr)


def write_whatever_the_encoding() -> None:
    """Let no character of a name or a table be an error, where the terminal cannot show it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write what waits to be written, such as a help text; a reader that is gone is no error."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard(sys.stdout)


class LogFormatter(logging.Formatter):
    """Time, level and message in one plain line; a traceback keeps its lines."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name that logging gave it
        """The line without its traceback."""
        record.message = shortened(record.message, LONGEST_MESSAGE)
        return plain(super().formatMessage(record))


def _discard(stream: TextIO | Any) -> None:
    """Nobody reads it any more: what is written from now on, by Python's own end too, goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
