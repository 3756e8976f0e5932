"""How values that come from files, servers and people are shown: without control characters, and never at length."""

import re
import reprlib

LONGEST = 100
"""So many characters of a value are shown in a message."""
LONGEST_MESSAGE = 4000
"""And so many of a message as a whole."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)?)")
_SPACES = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@:]*:[^/\s@]*@|(?<=http://)[^/\s@]+@|(?<=https://)[^/\s@]+@")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: object) -> str:
    """The text as one line, without terminal escapes, other control characters, and passwords in addresses."""
    return without_password(_CONTROLS.sub("", _SPACES.sub(" ", _ESCAPES.sub("", str(text)))))


def without_password(address: str) -> str:
    """An address, or a text with addresses, without the user's name and password."""
    return _CREDENTIALS.sub("", address)


def plain_lines(text: str) -> str:
    """The same for text of several lines, which stay apart."""
    return "\n".join(map(plain, text.split("\n")))


def shown(value: object, longest: int = LONGEST) -> str:
    """A value as it is written in Python, without control characters, cut where it is long.

    Only what is shown is looked at, so a value that would fill the memory as text costs nothing.
    """
    return shortened(_bounded(longest).repr(value), longest)


def shortened(text: object, longest: int = LONGEST) -> str:
    """Text as one plain line, cut where it is long."""
    line = plain(str(text)[: 4 * longest])
    return line if len(line) <= longest else line[: longest - 1] + "…"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its class where it has none."""
    lines = [line for line in str(error)[:LONGEST_MESSAGE].splitlines() if line.strip()]
    return shortened(lines[0] if lines else type(error).__name__, 200)


class _Bounded(reprlib.Repr):
    """Also bounded for whole numbers of a million digits, which Python refuses to write out."""

    def repr_int(self, x: int, level: int) -> str:
        return f"a whole number of {x.bit_length()} bits" if x.bit_length() > 256 else super().repr_int(x, level)


def _bounded(longest: int) -> reprlib.Repr:
    bounded = _Bounded()
    bounded.maxlevel, bounded.maxstring, bounded.maxother, bounded.maxlong = 3, longest, longest, longest
    return bounded
