"""What is decided before W&B is asked: which run is meant, and whether there is tracking at all."""

import os

import pytest

from tasks.services.tracking.run_path import RUN_ID, RunPath, base_url, chosen_address, has_key, path_of, tracking_mode
from tasks.services.tracking.wandb_client import Client
from ups_models.config.schema import TrackingConfig
from ups_models.errors import BadInput

CFG = TrackingConfig()


@pytest.fixture(autouse=True)
def no_wandb(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train-20251028_120000", RunPath("train-20251028_120000", "ups-pipeline")),
        ("p/r1", RunPath("r1", "p")),
        ("e/p/r1", RunPath("r1", "p", "e")),
        ("https://wandb.ai/e/p/runs/r1", RunPath("r1", "p", "e")),
        ("https://wandb.ai/e/p/runs/r1?nw=x", RunPath("r1", "p", "e")),
    ],
)
def test_a_run_is_named_in_every_usual_way(text, expected):
    assert RunPath.parse(text, CFG) == expected


@pytest.mark.parametrize(
    "text",
    ["", "a/b/c/d", "--resume-mode=never", "r1;rm -rf .", "$(id)", "../r1", "p/..", "r 1", "r1\n", "x" * 65, "e//r1"],
)
def test_what_is_not_a_run_id_is_refused(text):
    with pytest.raises(BadInput, match="is not a W&B run"):
        RunPath.parse(text, CFG)


def test_entity_and_project_come_from_the_config_before_the_environment(monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "env-project")
    monkeypatch.setenv("WANDB_ENTITY", "env-entity")

    assert RunPath.parse("r1", CFG) == RunPath("r1", "env-project", "env-entity")
    assert RunPath.parse("r1", TrackingConfig(project="p", entity="e")) == RunPath("r1", "p", "e")


@pytest.mark.parametrize(
    ("mode", "environment", "expected"),
    [
        ("auto", {}, "disabled"),
        ("auto", {"WANDB_API_KEY": "k"}, "online"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}, "disabled"),
        ("offline", {"WANDB_API_KEY": "k", "WANDB_MODE": "online"}, "offline"),
        ("disabled", {"WANDB_API_KEY": "k"}, "disabled"),
    ],
)
def test_tracking_follows_config_then_environment_then_key(monkeypatch, mode, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert tracking_mode(TrackingConfig(mode=mode)) == expected


def test_a_key_in_netrc_counts_for_its_own_host_alone(monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n", encoding="utf-8")

    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    assert not has_key()


def test_a_new_run_gets_an_id_that_is_valid_and_its_own():
    first, second = path_of(None, CFG), path_of(None, CFG)

    assert first != second
    assert RUN_ID.fullmatch(first.id)


@pytest.mark.parametrize(
    "address", ["http://wandb.example.org", "http://10.0.0.5:8080", "ftp://localhost", "wandb", "http://["]
)
def test_a_server_to_which_the_key_would_travel_in_the_clear_is_refused_before_it_does(monkeypatch, address):
    monkeypatch.setenv("WANDB_API_KEY", "k")
    monkeypatch.setenv("WANDB_BASE_URL", address)

    with pytest.raises(BadInput, match=r"WANDB_BASE_URL: .*https://"):
        tracking_mode(CFG)
    with pytest.raises(BadInput, match="WANDB_BASE_URL"):
        Client().api(CFG)
    with pytest.raises(BadInput, match="WANDB_BASE_URL"):
        Client().init({})


@pytest.mark.parametrize(
    "address", ["https://wandb.example.org", "http://127.0.0.1:8080", "http://localhost", "http://[::1]:1"]
)
def test_a_server_over_https_or_on_this_machine_is_used(monkeypatch, address):
    monkeypatch.setenv("WANDB_API_KEY", "k")
    monkeypatch.setenv("WANDB_BASE_URL", address)

    assert tracking_mode(CFG) == "online"


def test_an_address_that_wandb_keeps_in_a_file_is_used_and_checked_like_the_variable(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", "k")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    (tmp_path / "settings").write_text("[default]\nbase_url = https://wandb.example.org\n", encoding="utf-8")

    assert chosen_address() == {"base_url": "https://wandb.example.org"}
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nbase_url = http://10.0.0.5\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"^wandb/settings: http://10\.0\.0\.5 would send your W&B key over the network"):
        Client().api(CFG)
    monkeypatch.setenv("WANDB_BASE_URL", "https://me:secret@127.0.0.1")
    assert (base_url(), chosen_address()) == ("https://127.0.0.1", {})


@pytest.mark.parametrize("text", ["base_url = http://a", "[default]\nmode = online\n", "\0"])
def test_settings_of_wandb_without_an_address_change_nothing(monkeypatch, tmp_path, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    (tmp_path / "settings").write_text(text, encoding="utf-8")

    assert base_url() == "https://api.wandb.ai"


def test_a_password_in_the_address_is_not_shown(monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "https://me:secret@wandb.example.org")

    assert base_url() == "https://wandb.example.org"


def test_a_netrc_that_others_can_read_is_told_once(tmp_path, caplog):
    path = tmp_path / "netrc"
    path.write_text("machine api.wandb.ai login user password secret\n", encoding="utf-8")
    path.chmod(0o644)

    assert has_key()
    assert has_key()

    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: others on this machine can read the keys in it; run: chmod 600 {path}"
    ]


def test_a_netrc_that_is_no_file_holds_no_key(tmp_path):
    os.mkfifo(tmp_path / "netrc")

    assert not has_key()
