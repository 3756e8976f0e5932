"""Files are whole or absent."""

import json
import os
import resource
import signal
import stat

import pytest

from ups_models.errors import StorageError
from ups_models.files import digest_of, remove_stale_temporaries, write_atomically, write_text


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
