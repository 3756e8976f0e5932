"""Files that are whole or absent: the only writer of checkpoints, status and reports."""

import contextlib
import errno
import hashlib
import itertools
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ups_models.errors import StorageError
from ups_models.reading import Unreadable, open_file, remedy, require_regular

logger = logging.getLogger(__name__)

TEMPORARY_SUFFIX, DAMAGED_SUFFIX = ".tmp~", ".damaged"

CrashHook = Callable[[str, Path], None]
_crash_hook: CrashHook | None = None


@dataclass(frozen=True)
class FileDigest:
    """What identifies a file's content."""

    sha256: str
    bytes: int


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> FileDigest:
    """Let `write` fill a temporary file, then put it in place of `path` in one step.

    The temporary file lies in the same directory, is flushed to disk before the rename, and the directory after it:
    whatever kills the process, `path` holds the old content or the new. Raises StorageError, and what `write` raises.
    """
    try:
        with atomic_path(path) as temporary:
            with temporary.open("w+b") as file:
                write(file)
            return known_digest(temporary)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror or error}); what was there before is still whole. "
            f"{(remedy(error) or 'check its file system').capitalize()}, or choose another --run-dir, and resume with "
            "--auto-resume"
        ) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path to write to, for writers that insist on opening it; renamed to `path` on a clean exit.

    Makes the file's own folder, but not the folder's parents: a run that was removed is not made again.
    """
    path.parent.mkdir(exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY_SUFFIX)
    os.close(handle)
    temporary = Path(name)
    try:
        _crash_point("temporary created", temporary)
        yield temporary
        _crash_point("temporary written", temporary)
        _flush(temporary)
        temporary.chmod(0o666 & ~_umask())
        _crash_point("temporary flushed", temporary)
        _rename(temporary, path)
        _crash_point("renamed", path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush_folder(path.parent)
    _crash_point("directory flushed", path)


def write_text(path: Path, text: str) -> FileDigest:
    """Write a UTF-8 text file atomically."""
    return write_atomically(path, lambda file: file.write(text.encode()))


def digest_of(path: Path) -> FileDigest:
    """sha256 and size of a file. Raises FileNotFoundError, Unreadable."""
    with open_file(path) as file:
        try:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise Unreadable(path, f"cannot be read to its end ({error.strerror}); copy it again") from None
        return FileDigest(sha256, file.tell())


_digests: dict[tuple[int, int, int, int], FileDigest] = {}


def known_digest(path: Path) -> FileDigest:
    """The same, read once in a process while the file stays what it is: device, inode, size and time of change.

    A renamed or linked file is the same file. Raises OSError, Unreadable.
    """
    found = path.stat()
    key = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    if key not in _digests:
        _digests[key] = digest_of(path)
    return _digests[key]


def append_line(path: Path, line: str, *, flush: bool = False) -> None:
    """Add a line to a log; half a line that a killed writer left is closed first, so that it costs no other.

    `flush` has the line on the disk before the call returns. Raises StorageError.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        with path.open("ab+") as file:
            if file.tell() and not _ends_with_newline(file):
                file.write(b"\n")
            file.write(line.encode() + b"\n")
            if flush:
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        advice = remedy(error) or "choose another --run-dir"
        raise StorageError(f"{path}: no line can be added ({error.strerror or error}); {advice}") from error
    _crash_point("line appended", path)


def previous_of(path: Path) -> Path:
    """Where `keep_previous` leaves the file that another replaces."""
    return path.with_stem(f"{path.stem}.previous")


def keep_previous(path: Path) -> None:
    """Move a file aside before it is replaced; until its successor is there, the one aside is the newest."""
    if path.exists():
        _rename(path, previous_of(path))
        _crash_point("moved aside", path)


def remove(*paths: Path) -> None:
    """Delete files that are not needed any more, as far as they are there."""
    for path in paths:
        _crash_point("before removal", path)
        path.unlink(missing_ok=True)
        _crash_point("removed", path)


def arm_crash_points(hook: CrashHook | None) -> None:
    """Call `hook` with the name and path of every point at which a crash leaves another state of the disk.

    For tests that enumerate crashes. While nothing is armed a point costs one comparison.
    """
    global _crash_hook  # noqa: PLW0603 - one process, one hook
    _crash_hook = hook


def _crash_point(name: str, path: Path) -> None:
    if _crash_hook is not None:
        _crash_hook(name, path)


def _ends_with_newline(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def set_aside(path: Path) -> None:
    """Make way where a file of ours is to be: a folder, a pipe or a link in its place is moved aside, and told."""
    try:
        require_regular(path, follow_links=False)
    except FileNotFoundError:
        return
    except Unreadable as error:
        names = (f"{path.name}{DAMAGED_SUFFIX}{number or ''}" for number in itertools.count())
        aside = next(one for name in names if not os.path.lexists(one := path.with_name(name)))
        logger.warning("%s; moved to %s, and begun anew", error, aside.name)
        path.rename(aside)


def remove_stale_temporaries(*directories: Path, name: str = "") -> list[Path]:
    """Delete what killed writers left behind in these, of all files or of one, and name it. Only for their owner."""
    stale = [path for directory in directories for path in sorted(directory.glob(f".{name}*{TEMPORARY_SUFFIX}"))]
    for path in stale:
        path.unlink(missing_ok=True)
    return stale


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_folder(path: Path) -> None:
    """Some network file systems flush no folders, and keep their order themselves."""
    try:
        _flush(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def _rename(source: Path, target: Path) -> None:
    """Replace the target. NFS repeats a rename whose answer was lost, and then says that there is no source."""
    inode = source.stat().st_ino
    try:
        source.replace(target)
    except FileNotFoundError:
        if not target.exists() or target.stat().st_ino != inode:
            raise


def _umask() -> int:
    """Read, where it can be: to ask the system for it is to change it for a moment, for every thread."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text("utf-8").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0)
    os.umask(mask)
    return mask
