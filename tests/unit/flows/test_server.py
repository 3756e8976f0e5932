"""When a run brings its own Prefect server, and when it does not."""

import os
from unittest.mock import patch

import pytest

from flows.prefect.server import QUIET, has_server, is_temporary, quiet_prefect, temporary_server

PROFILES = """
active = "{active}"

[profiles.quiet]

[profiles.team]
PREFECT_API_URL = "http://127.0.0.1:9/api"
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("PREFECT_PROFILE", raising=False)
    return tmp_path


def test_nothing_configured_means_a_server_of_our_own(home):
    assert not has_server()


@pytest.mark.parametrize(("active", "expected"), [("quiet", False), ("team", True)])
def test_the_active_profile_decides(home, active, expected):
    (home / "profiles.toml").write_text(PROFILES.format(active=active), encoding="utf-8")

    assert has_server() is expected


def test_the_environment_decides_before_a_profile(home, monkeypatch):
    (home / "profiles.toml").write_text(PROFILES.format(active="quiet"), encoding="utf-8")
    monkeypatch.setenv("PREFECT_PROFILE", "team")

    assert has_server()


def test_a_configured_server_is_left_alone(home, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")

    with temporary_server():
        assert has_server()
        assert not is_temporary()

    assert has_server()


def test_what_the_user_set_for_prefect_stays():
    others = {name: value for name, value in os.environ.items() if name not in QUIET}
    given = {"PREFECT_SERVER_ANALYTICS_ENABLED": "true"}

    with patch.dict(os.environ, others | given, clear=True):
        quiet_prefect()
        seen = {name: os.environ[name] for name in QUIET}

    assert seen == QUIET | given
