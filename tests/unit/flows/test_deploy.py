"""`ups deploy`, as far as it needs no server of its own: what is refused, and what would be created."""

import httpx
import pytest


def test_without_a_server_it_says_what_to_do(here, ups, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)

    done = ups("deploy")

    assert done.returncode == 2
    assert "PREFECT_API_URL is not set" in done.stderr


def test_patience_shorter_than_a_heartbeat_is_refused(here, ups, prefect_api):
    done = ups("deploy", "--vanished-after", "30")

    assert done.returncode == 2
    assert "--vanished-after 30: a run sends a heartbeat every 30 s; take 90" in done.stderr
    assert prefect_api.told == []


def test_a_dry_run_makes_nothing(here, ups, prefect_api):
    prefect_api.deployments = set()

    done = ups("deploy", "--dry-run")

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("would create") == 8
    assert prefect_api.told == []


def test_a_dry_run_tells_what_is_there_already(here, ups, prefect_api):
    name = "ups: train-pipeline again after a crash"
    prefect_api.deployments = {"train-pipeline/a-copy"}
    prefect_api.automations[name] = {"name": name, "enabled": False}

    done = ups("deploy", "--dry-run")

    assert f"would update: automation '{name}'" in done.stdout
    assert done.stdout.count("would create") == 7


def test_a_block_that_is_not_there_is_named(here, ups, prefect_api):
    prefect_api.refusals["no-such"] = httpx.Response(404, json={"detail": "not found"})

    done = ups("deploy", "--dry-run", "--notify", "slack-webhook/no-such")

    assert done.returncode == 2
    assert "--notify slack-webhook/no-such: there is no such block" in done.stderr


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (httpx.Response(401), 2, "wants a password; put user:password into PREFECT_API_AUTH_STRING"),
        (httpx.Response(500, text="out of order"), 1, "refused (out of order); see the server's log"),
        (httpx.ConnectError("refused"), 2, "does not answer (ConnectError); start it with `make server`"),
    ],
)
def test_a_server_that_gives_no_answer_is_named_with_what_to_do(here, ups, prefect_api, answer, code, said):
    prefect_api.refusals["filter"] = answer

    done = ups("deploy", "--dry-run")

    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == f"ups: http://prefect.test/api: {said}\n"
