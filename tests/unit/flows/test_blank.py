"""The blank database that temporary servers start from: whole, of this Prefect, and nobody else's."""

import hashlib
import os
from importlib.metadata import version

import pytest

from flows.prefect.blank import DATABASE, copy_blank

BLANK = b"tables without rows"
WHOLE = f"{version('prefect')}-{hashlib.sha256(BLANK).hexdigest()}.db"


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder of blank databases, with one in it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    copy_blank(tmp_path)
    (folder,) = tmp_path.iterdir()
    (folder / WHOLE).write_bytes(BLANK)
    return folder


def copied(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    copy_blank(home)
    return (home / DATABASE).read_bytes() if (home / DATABASE).exists() else None


def test_a_new_home_gets_a_copy(tmp_path, kept):
    assert copied(tmp_path) == BLANK


def test_a_damaged_one_is_removed_and_not_copied(tmp_path, kept):
    (kept / WHOLE).write_bytes(BLANK[:-1])

    assert copied(tmp_path) is None
    assert not (kept / WHOLE).exists()


def test_that_of_another_prefect_is_left_alone(tmp_path, kept):
    other = (kept / WHOLE).rename(kept / WHOLE.replace(version("prefect"), "3.0.0"))

    assert copied(tmp_path) is None
    assert other.exists()


def test_a_folder_that_others_can_write_is_not_used(tmp_path, kept):
    kept.chmod(0o777)

    assert copied(tmp_path) is None


def test_a_link_in_the_place_of_the_folder_is_not_followed(tmp_path, kept):
    kept.symlink_to(kept.rename(tmp_path / "elsewhere"))

    assert copied(tmp_path) is None


def test_a_pipe_in_the_place_of_the_database_is_not_waited_for(tmp_path, kept):
    (kept / WHOLE).unlink()
    os.mkfifo(kept / WHOLE)

    assert copied(tmp_path) is None
