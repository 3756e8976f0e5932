"""Files that are whole or absent: the only writer of checkpoints, status and reports."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

TEMPORARY_SUFFIX = ".tmp~"


@dataclass(frozen=True)
class FileDigest:
    """What identifies a file's content."""

    sha256: str
    bytes: int


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> FileDigest:
    """Let `write` fill a temporary file, then put it in place of `path` in one step.

    The temporary file lies in the same directory, is flushed to disk before the rename, and the directory after it:
    whatever kills the process, `path` holds the old content or the new. Raises what `write` and the system raise.
    """
    with atomic_path(path) as temporary:
        with temporary.open("wb") as file:
            write(file)
        return digest_of(temporary)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path to write to, for writers that insist on opening it; renamed to `path` on a clean exit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY_SUFFIX)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _flush(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)


def write_text(path: Path, text: str) -> FileDigest:
    """Write a UTF-8 text file atomically."""
    return write_atomically(path, lambda file: file.write(text.encode()))


def digest_of(path: Path) -> FileDigest:
    """sha256 and size of a file. Raises OSError."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileDigest(sha256, file.tell())


def remove_stale_temporaries(directory: Path) -> list[Path]:
    """Delete what killed writers left behind in `directory`, and name it. Only for the directory's owner."""
    stale = sorted(directory.glob(f".*{TEMPORARY_SUFFIX}"))
    for path in stale:
        path.unlink(missing_ok=True)
    return stale


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
