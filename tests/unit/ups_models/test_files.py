"""Files are whole or absent."""

import errno
import json
import os
import resource
import signal
import stat
from contextlib import nullcontext
from pathlib import Path

import pytest

from ups_models.errors import StorageError
from ups_models.files import (
    digest_of,
    keep_previous,
    previous_of,
    remove_stale_temporaries,
    write_atomically,
    write_text,
)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(StorageError, match="disk full"):
        write_atomically(path, fail)

    assert path.read_text("utf-8") == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_the_digest_returned_is_that_of_the_file_in_place(tmp_path):
    digest = write_text(tmp_path / "folder" / "file", "content")

    assert digest == digest_of(tmp_path / "folder" / "file")
    assert digest.bytes == len("content")


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path):
    previous = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "content")
    finally:
        os.umask(previous)

    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_what_killed_writers_left_behind_is_removed(tmp_path):
    (tmp_path / ".a.pt.x1.tmp~").write_bytes(b"half")
    (tmp_path / "a.pt").write_bytes(b"whole")

    removed = remove_stale_temporaries(tmp_path)

    assert [path.name for path in removed] == [".a.pt.x1.tmp~"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_status_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "stage_status.json"
    write_text(path, "{}")
    previous = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, previous[1]))
    try:
        with pytest.raises(StorageError, match="still whole"):
            write_text(path, json.dumps({"much": "more" * 100}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, previous)
        signal.signal(signal.SIGXFSZ, handler)

    assert path.read_text("utf-8") == "{}"


def test_a_rename_whose_answer_was_lost_is_one_that_took_place(tmp_path, monkeypatch):
    """As NFS does, which repeats it: there is none here to try."""
    rename = Path.replace

    def repeated(source, target):
        rename(source, target)
        raise FileNotFoundError(errno.ENOENT, "no such file", str(source))

    monkeypatch.setattr(Path, "replace", repeated)
    write_text(tmp_path / "status.json", "first")
    keep_previous(tmp_path / "status.json")
    write_text(tmp_path / "status.json", "second")

    assert (tmp_path / "status.json").read_text("utf-8") == "second"
    assert previous_of(tmp_path / "status.json").read_text("utf-8") == "first"


def test_a_rename_that_did_not_take_place_is_an_error(tmp_path, monkeypatch):
    write_text(tmp_path / "status.json", "old")

    def refused(source, target):
        raise FileNotFoundError(errno.ENOENT, "no such file", str(source))

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(StorageError, match=r"status\.json: cannot be written"):
        write_text(tmp_path / "status.json", "new")

    assert (tmp_path / "status.json").read_text("utf-8") == "old"


@pytest.mark.parametrize(("code", "fails"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_flushes_no_folders_is_used_and_one_that_fails_is_named(tmp_path, monkeypatch, code, fails):
    flush = os.fsync

    def flush_files_alone(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))
        flush(handle)

    monkeypatch.setattr(os, "fsync", flush_files_alone)
    with pytest.raises(StorageError) if fails else nullcontext():
        write_text(tmp_path / "status.json", "new")
