"""When a run brings its own Prefect server, where that lives, and when it does not."""

import os
from pathlib import Path
from unittest.mock import patch

import pytest

from flows.prefect.home import NoServer, PrivateHome, named_server
from flows.prefect.server import QUIET, RETRIES, is_temporary, quiet_prefect, server_of_run

PROFILES = """
active = "{active}"

[profiles.quiet]

[profiles.team]
PREFECT_API_URL = "http://127.0.0.1:9/api"
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_nothing_configured_means_a_server_of_our_own(home):
    assert named_server().url is None


@pytest.mark.parametrize(("active", "expected"), [("quiet", None), ("team", "http://127.0.0.1:9/api")])
def test_the_active_profile_decides(home, active, expected):
    (home / "profiles.toml").write_text(PROFILES.format(active=active), encoding="utf-8")

    assert named_server().url == expected


def test_the_environment_decides_before_a_profile(home, monkeypatch):
    (home / "profiles.toml").write_text(PROFILES.format(active="quiet"), encoding="utf-8")
    monkeypatch.setenv("PREFECT_PROFILE", "team")

    assert named_server().url == "http://127.0.0.1:9/api"


@pytest.mark.parametrize("text", ["[profiles", 'active = ["a"]\n', "profiles = 1\n", "[profiles]\na = 1\n", "\x00"])
def test_profiles_that_cannot_be_read_name_no_server_and_are_told(home, text):
    active = 'active = "a"\n' if text.startswith("[profiles]") else ""
    (home / "profiles.toml").write_text(active + text, encoding="utf-8")

    named = named_server()

    assert named.url is None
    assert named.fault.startswith(f"{home}/profiles.toml: ")


def test_a_pipe_in_the_place_of_the_profiles_is_told_and_not_waited_for(home):
    os.mkfifo(home / "profiles.toml")

    assert "is a named pipe" in named_server().fault


def test_a_file_in_the_place_of_the_home_is_told(home):
    home.rmdir()
    home.touch()

    assert named_server().fault == f"{home}: is a file where Prefect needs a folder"


def test_a_configured_server_is_left_alone(home, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")

    with server_of_run():
        assert named_server().url == "http://127.0.0.1:9/api"
        assert Path(os.environ["PREFECT_HOME"]) == home
        assert not is_temporary()

    assert named_server().url == "http://127.0.0.1:9/api"


def test_where_no_folder_can_be_made_there_is_no_server_and_the_reason_is_told(home, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(home / "absent"))

    with pytest.raises(NoServer, match=r"no temporary folder can be made for Prefect .*; set TMPDIR"), server_of_run():
        pass


def test_a_private_home_hides_what_is_the_users_and_brings_it_back(home, monkeypatch):
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "sqlite:///mine")
    monkeypatch.setenv("PREFECT_API_KEY", "key")
    private = PrivateHome()

    with private.used(keys=False):
        inside = {name for name in os.environ if name.startswith("PREFECT_")}
        seen = Path(os.environ["PREFECT_HOME"])
    private.remove()

    assert {"PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_API_KEY"} & inside == set()
    assert seen == private.path
    assert not seen.exists()
    assert os.environ["PREFECT_API_DATABASE_CONNECTION_URL"] == "sqlite:///mine"
    assert Path(os.environ["PREFECT_HOME"]) == home


def test_the_home_of_a_process_that_was_killed_is_removed_by_the_next(home):
    used, abandoned = PrivateHome(), PrivateHome()
    os.close(abandoned.lock)  # as the kernel does

    last = PrivateHome()

    assert used.path.is_dir()
    assert not abandoned.path.exists()
    used.remove()
    last.remove()


def test_what_the_user_set_for_prefect_stays():
    others = {name: value for name, value in os.environ.items() if name not in QUIET | RETRIES}
    given = {"PREFECT_SERVER_ANALYTICS_ENABLED": "true"}

    with patch.dict(os.environ, others | given, clear=True):
        quiet_prefect()
        seen = {name: os.environ[name] for name in QUIET | RETRIES}

    assert seen == QUIET | RETRIES | given
