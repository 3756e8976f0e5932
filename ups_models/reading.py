"""The one reader of files that did not come from this process: regular, of bounded size and depth, and UTF-8."""

import errno
import json
import os
import re
import stat
from collections.abc import Callable, Hashable, Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

import yaml

from ups_models.errors import BadInput
from ups_models.wording import first_line, shown

MEGABYTE = 1_000_000
TEXT_LIMIT = 64 * MEGABYTE
YAML_LIMIT = MEGABYTE // 4  # a config has a few kB, and PyYAML reads 100 kB a second
LONGEST_LINE = MEGABYTE
MAX_DEPTH, MAX_NODES = 64, 100_000
"""How deep values may be nested, and how many values a YAML file may hold once its aliases are written out."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_REMEDIES = {
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.EROFS: "choose a folder that can be written",
    errno.EIO: "the disk may be failing: copy what can still be read",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs: the system has no file handles left",
    errno.EISDIR: "remove the folder in its place",
    errno.ENOTDIR: "remove the file in the place of its folder",
    errno.ENOENT: "check its name, or make the folder that it is to lie in",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOMEM: "close other programs: the memory that is free is not enough",
    errno.ESTALE: "mount its file system again",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or ask for a larger quota",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or free some space",
}
_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+\\?(?:"|\Z)|[\[\]{}]', re.DOTALL)
_MAKERS_ERRORS = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)


class Unreadable(BadInput, ValueError):
    """A file that is not read, with its name and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{path}: {reason}")


class Unparsable(ValueError):
    """Text that is not what it must be; `line` counts from 1 where it is known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        self.reason, self.line = reason, line
        super().__init__(reason)


def require_regular(path: Path, *, follow_links: bool = True) -> None:
    """Raise Unreadable for what is there and is no regular file, or a link that may not be followed."""
    try:
        found = path.stat() if follow_links else path.lstat()
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise Unreadable(path, _reason(error)) from None
    if stat.S_ISLNK(found.st_mode):
        raise Unreadable(path, "is a symbolic link, which is not followed here; put the file itself in its place")
    if not stat.S_ISREG(found.st_mode):
        raise Unreadable(path, f"is {_KINDS.get(stat.S_IFMT(found.st_mode), 'no file')}, not a regular file")


def open_handle(path: Path, flags: int, *, follow_links: bool = True) -> int:
    """Open a regular file without ever waiting for it. Raises FileNotFoundError, Unreadable.

    With O_CREAT in `flags` the file may be absent. A link is followed only where a user may have made it.
    """
    try:
        require_regular(path, follow_links=follow_links)  # before it is opened: opening a device may have effects
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    safe = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follow_links else os.O_NOFOLLOW)
    try:
        handle = os.open(path, flags | safe, 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreadable(path, _reason(error, "opened")) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):  # replaced since we looked
        os.close(handle)
        raise Unreadable(path, "is not a regular file")
    return handle


def open_file(path: Path, *, follow_links: bool = True) -> BufferedReader:
    """A regular file, open for reading. Raises FileNotFoundError, Unreadable."""
    return os.fdopen(open_handle(path, os.O_RDONLY, follow_links=follow_links), "rb")


def read_bytes(path: Path, *, limit: int = TEXT_LIMIT, follow_links: bool = True) -> bytes:
    """The whole content of a file of at most `limit` bytes. Raises FileNotFoundError, Unreadable."""
    try:
        with open_file(path, follow_links=follow_links) as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreadable(path, _reason(error)) from None
    except MemoryError:
        raise Unreadable(path, "does not fit into the memory that is free") from None
    if len(content) > limit:
        raise Unreadable(path, f"is larger than {limit / MEGABYTE:g} MB, which no such file is")
    return content


def read_text(path: Path, *, limit: int = TEXT_LIMIT, follow_links: bool = True) -> str:
    """The same as text. Raises FileNotFoundError, and Unreadable, which names the first byte that is no UTF-8."""
    content = read_bytes(path, limit=limit, follow_links=follow_links)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        wrong = content[error.start]
        raise Unreadable(path, f"byte {error.start} (0x{wrong:02x}) is no UTF-8 text") from None


def last_line(path: Path) -> str:
    """The last line with anything in it; empty where there is none. Raises FileNotFoundError, Unreadable."""
    last = b""
    for line in read_lines(path):
        last = line.strip() or last
    return last.decode("utf-8", "replace")


def read_lines(path: Path, *, follow_links: bool = True) -> Iterator[bytes]:
    """Line by line, however large the file; what is longer than a line may be comes in pieces.

    Raises FileNotFoundError, Unreadable.
    """
    with open_file(path, follow_links=follow_links) as file:
        while True:
            try:
                line = file.readline(LONGEST_LINE)
            except OSError as error:
                raise Unreadable(path, _reason(error)) from None
            if not line:
                return
            yield line


def parse_json(text: str | bytes, *, allow_nan: bool = True) -> Any:
    """A JSON value, of bounded depth and without duplicate keys. Raises Unparsable.

    Numbers beyond a float, and characters that no file can hold, are refused here: they would fail when written again.
    """
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        _check_json_depth(text)
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_float=_finite,
            parse_constant=None if allow_nan else _no_constant,
        )
    except json.JSONDecodeError as error:
        raise Unparsable(error.msg, error.lineno) from None
    except Unparsable:
        raise
    except ValueError as error:
        raise Unparsable(first_line(error)) from None
    if "\\u" in text:
        _check_strings(value)
    return value


def parse_yaml(text: str) -> Any:
    """A YAML value of plain types, of bounded depth and size. Raises Unparsable."""
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader that is stricter still
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or first_line(error)
        raise Unparsable(str(problem), mark.line + 1 if mark else None) from None
    except _MAKERS_ERRORS as error:  # what PyYAML itself makes of odd scalars
        raise Unparsable(first_line(error)) from None
    _check_strings(value)
    return value


class _Loader(yaml.SafeLoader):
    """YAML without a silent "last one wins", and bounded: in depth, and in size once every alias is written out."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._open = 0
        self._measured: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._open += 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        is_alias = self.check_event(yaml.AliasEvent)
        if self._open > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, _too_deep(), mark)
        node = super().compose_node(parent, index)
        self._open -= 1
        if node is not None and id(node) not in self._measured:
            if is_alias:  # of a node that is not complete yet
                raise yaml.composer.ComposerError(None, None, "an alias that contains itself", mark)
            self._measured[id(node)] = self._measure(node, mark)
        return node

    def _measure(self, node: yaml.Node, mark: Any) -> tuple[int, int]:
        """How many values a node holds, and how deep they are."""
        parts: Iterable[yaml.Node] = ()
        if isinstance(node, yaml.SequenceNode):
            parts = node.value
        elif isinstance(node, yaml.MappingNode):
            parts = (part for pair in node.value for part in pair)
        found = [self._measured[id(part)] for part in parts]
        nodes, depth = 1 + sum(size for size, _ in found), 1 + max((deep for _, deep in found), default=0)
        if nodes > MAX_NODES:
            raise yaml.composer.ComposerError(None, None, f"it stands for more than {MAX_NODES} values", mark)
        if depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, _too_deep(), mark)
        return nodes, depth

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except _MAKERS_ERRORS:
            what = f"{shown(node.value)} is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                what = f"key {shown(key)} is given twice"
                raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


def _check_json_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _BRACKETS.finditer(text):
        bracket = match.group()
        depth += (bracket in "[{") - (bracket in "]}")
        if depth > MAX_DEPTH:
            raise Unparsable(_too_deep(), text.count("\n", 0, match.start()) + 1)


def _check_strings(value: Any) -> None:
    """Raise Unparsable for text that cannot be written or name a file: half a character, or a zero byte."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += [*item, *item.values()]
        elif isinstance(item, list | tuple | set):
            waiting += item
        elif isinstance(item, str) and ("\0" in item or any("\ud800" <= letter <= "\udfff" for letter in item)):
            raise Unparsable(f"{shown(item)} holds a zero byte or half a character")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise Unparsable(f"key {shown(key)} is given twice")
        found[key] = value
    return found


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise Unparsable(f"{text[:20]} is too large a number")
    return number


def _no_constant(name: str) -> Callable[[], None]:
    raise Unparsable(f"{name} is no JSON number")


def _too_deep() -> str:
    return f"it is nested more than {MAX_DEPTH} deep"


def remedy(error: OSError) -> str | None:
    """What to do about an error of the system, where that is known."""
    return _REMEDIES.get(error.errno or 0)


def _reason(error: OSError, what: str = "read") -> str:
    advice = remedy(error)
    return f"cannot be {what} ({error.strerror or first_line(error)})" + (f"; {advice}" if advice else "")
