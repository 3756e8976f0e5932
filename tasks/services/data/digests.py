"""The identity of data files: the sha256 of their whole content, read once and kept beside each file."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ups_models.errors import StorageError
from ups_models.files import FileDigest, digest_of, remove, write_text
from ups_models.reading import open_file, parse_json, read_text

SAMPLED_BLOCKS, BLOCK_BYTES = 64, 64 * 1024
PREFIX = "sha256:"
SHA256, MD5, RECORD_BYTES = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{32}"), 10_000

_Stamp = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Record:
    """What is kept beside a data file; nothing where that is damaged."""

    sha256: str | None = None
    stamp: tuple[object, ...] = ()
    md5: str | None = None


_known: dict[tuple[Path, _Stamp], FileDigest] = {}


def identity_of(paths: Sequence[Path], *, keep: bool = False, solved_here: bool = False) -> str | None:
    """Identifies the whole content of data files, in their order; None where one is absent.

    `keep` writes each digest beside its file, for later processes; where that is not possible they read it again.
    Files that are `solved_here` stand for what was solved: one that has changed since is solved again before it is
    used (`spoilt`).
    """
    if not all(path.is_file() for path in paths):
        return None
    digests = [(_recorded(path) if solved_here else None) or digest_in(path, keep=keep).sha256 for path in paths]
    return PREFIX + hashlib.sha256("\n".join(digests).encode()).hexdigest()


def spoilt(path: Path) -> str | None:
    """The sha256 that the content of a data file had when it was kept, where it has another one now; else None."""
    known = _recorded(path)
    return None if known is None or digest_in(path).sha256 == known else known


def digest_in(path: Path, *, keep: bool = False) -> FileDigest:
    """The digest of a data file, from memory or from beside the file while both say the same (size, times, inode)."""
    key = path.absolute(), _stamp(path)
    digest = _known.get(key) or _read_beside(path, key[1]) or digest_of(path)
    if key[1] == _stamp(path):  # nobody wrote to it meanwhile
        _known[key] = digest
        if keep:
            _write_beside(path, key[1], digest)
    return digest


def md5_in(path: Path, *, keep: bool = False) -> str:
    """The MD5 of a data file, by which its publisher may name it; kept and remembered like its sha256."""
    digest, stamp = digest_in(path, keep=keep), _stamp(path)
    known = _record_beside(path)
    if known.md5 is not None and (known.sha256, known.stamp) == (digest.sha256, stamp):
        return known.md5
    with open_file(path) as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if keep and stamp == _stamp(path):
        _write_beside(path, stamp, digest, md5)
    return md5


def sampled_identity_of(paths: Sequence[Path]) -> str | None:
    """What the first edition recorded: sizes and 64 evenly spaced blocks of each file; None where one is absent."""
    if not all(path.is_file() for path in paths):
        return None
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(str(size).encode())
        with open_file(path) as file:
            for block in range(SAMPLED_BLOCKS):
                file.seek(block * max(size - BLOCK_BYTES, 0) // (SAMPLED_BLOCKS - 1))
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def is_sampled(identity: str) -> bool:
    """Whether the first edition recorded this identity."""
    return not identity.startswith(PREFIX)


def _stamp(path: Path) -> _Stamp:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.digest.json")


def forget(path: Path) -> None:
    """Remove a data file that is to be made again, and the digest beside it."""
    remove(path, _beside(path))


def _recorded(path: Path) -> str | None:
    """The sha256 beside a file, whatever the file holds now."""
    return _record_beside(path).sha256


def _read_beside(path: Path, stamp: _Stamp) -> FileDigest | None:
    known = _record_beside(path)
    return FileDigest(known.sha256, stamp[0]) if known.sha256 is not None and known.stamp == stamp else None


def _record_beside(path: Path) -> _Record:
    try:
        record = parse_json(read_text(_beside(path), limit=RECORD_BYTES, follow_links=False))
        sha256, md5 = record["sha256"], record.get("md5", "")
        return _Record(
            sha256 if SHA256.fullmatch(sha256) else None, tuple(record["stamp"]), md5 if MD5.fullmatch(md5) else None
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # the file is read again
        return _Record()


def _write_beside(path: Path, stamp: _Stamp, digest: FileDigest, md5: str | None = None) -> None:
    if md5 is None and _read_beside(path, stamp) == digest:
        return
    record = {"sha256": digest.sha256, "stamp": stamp} | ({"md5": md5} if md5 is not None else {})
    try:
        write_text(_beside(path), json.dumps(record) + "\n")
    except (StorageError, OSError):
        return  # a folder of somebody else's: the next process reads the file again
