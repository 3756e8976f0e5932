"""`ups deploy` on a real Prefect server and worker: a run that dies is run again by itself, to the same weights."""

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from flows import ROOT
from flows.prefect.artifacts import key_ending
from harness.chaos.checks import outcome
from harness.chaos.prefect_stack import FINAL, prefect_stack, trainer_of
from harness.chaos.retries import modified
from tasks.services.run.paths import RunDir
from ups_models.stages.spec import SPECS

SETTINGS = ["stages.operator.steps_per_epoch=200", "checkpoint.save_every_steps=10"]
DIVERGES = ["stages.operator.lr=1", "stages.operator.grad_clip=1e30", "stages.operator.warmup_steps=0"]


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A server with everything deployed, and a worker."""
    with prefect_stack(tmp_path_factory.mktemp("room"), within_s=400) as room:
        yield room


class Ear(ThreadingHTTPServer):
    """An address, and what was said to it."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Listener)
        self.heard = []


class Listener(BaseHTTPRequestHandler):
    """Keeps what is posted to it."""

    server: Ear

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.server.heard.append(self.rfile.read(length).decode())
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def listener():
    """An address that hears notifications."""
    with Ear() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_block_that_is_not_there_is_named(room):
    done = room.deploy("--notify", "slack-webhook/no-such")

    assert done.returncode == 2
    assert "--notify slack-webhook/no-such: there is no such block" in done.stderr


@pytest.fixture(scope="module")
def worked(room):
    """The same, with a worker and a watch."""
    assert room.deploy("--retry-after", "1").returncode == 0
    room.start_worker()
    room.start_watch()
    return room


def weights_in(root):
    return {name: digest for name, digest in outcome(RunDir.of(root, root / "checkpoints")).items() if ".pt" in name}


def test_a_dry_run_makes_nothing(room):
    done = room.deploy("--dry-run")

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("would create") == 8
    assert room.ask("POST", "/deployments/filter", json={}) == []


def test_deploying_twice_makes_everything_once(room):
    for _ in range(2):
        done = room.deploy("--retry-after", "1")
        assert done.returncode == 0, done.stderr

    names = sorted(one["name"] for one in room.ask("POST", "/deployments/filter", json={}))
    automations = room.ask("POST", "/automations/filter", json={})
    assert names == ["evaluate-only", "train-on-vast", "train-pipeline"]
    assert len({one["name"] for one in automations}) == len(automations) == 4
    [nightly] = room.deployment()["schedules"]
    assert nightly["active"] is False
    assert "deployment train-pipeline/train-pipeline" in done.stdout


NET = """
from torch import nn

from ups_models import OneStep
from beside import factor

class Step(OneStep):
    def __init__(self, shapes):
        super().__init__(shapes)
        self.conv = nn.Conv1d(1, 1, 3, padding="same", padding_mode="circular")

    def step(self, u, parameters):
        return u + factor * self.conv(u)  # {{ not a template }}
"""


@pytest.fixture
def own_config(tmp_path):
    """A config with a network of its own in a module beside another."""
    (tmp_path / "nets.py").write_text(NET)
    (tmp_path / "beside.py").write_text("factor = 0.1\n")
    text = (ROOT / "configs" / "smoke.yaml").read_text("utf-8")
    network = f"operator: {{network: '{tmp_path / 'nets.py'}:Step', modes: 5}}"
    lines = [network if line.startswith("operator:") else line for line in text.splitlines()]
    config = tmp_path / "mine.yaml"
    config.write_text("\n".join(lines).replace("dim: 4,", "dim: 8,"))
    return config


def test_a_config_and_its_code_travel_with_a_deployment_to_a_worker_elsewhere(worked, own_config):
    done = worked.deploy("--config", str(own_config))
    assert done.returncode == 0, done.stderr
    assert "created: deployment train-pipeline/mine" in done.stdout
    for path in own_config.parent.glob("*.*"):
        path.unlink()

    made = worked.deployment("train-pipeline/mine")
    worked.ask("POST", f"/deployments/{made['id']}/create_flow_run", json={})

    kept = worked.wait_for(lambda: list(worked.home.glob("mine/checkpoints/operator_ema.pt")), "a trained operator")
    assert kept
    assert str(own_config.parent) not in json.dumps(made)
    code = json.loads((worked.home / "mine" / "code.json").read_text("utf-8"))
    assert set(code["nets.py"]) == {"nets.py", "beside.py"}


def test_a_name_that_is_taken_or_stands_alone_is_refused(room, own_config):
    taken, alone = room.deploy("--config", str(own_config), "--name", "evaluate-only"), room.deploy("--name", "x")

    assert (taken.returncode, alone.returncode) == (2, 2)
    assert "--name evaluate-only: is a deployment of ours" in taken.stderr
    assert "--name: is that of a config's deployment" in alone.stderr


def test_an_automation_that_was_switched_off_stays_off(room):
    automation = next(one for one in room.ask("POST", "/automations/filter", json={}) if "again" in one["name"])
    room.ask("PATCH", f"/automations/{automation['id']}", json={"enabled": False})

    done = room.deploy("--retry-after", "1")

    assert f"updated: automation '{automation['name']}'" in done.stdout
    assert room.ask("GET", f"/automations/{automation['id']}")["enabled"] is False
    room.ask("PATCH", f"/automations/{automation['id']}", json={"enabled": True})


def test_what_people_changed_of_a_deployment_stays_and_a_limit_is_lifted(room):
    assert room.deploy("--retry-after", "1").returncode == 0
    before = room.deployment()
    address = f"/deployments/{before['id']}"
    [nightly] = before["schedules"]
    made = [{"schedule": {"cron": "5 4 * * *", "timezone": "Europe/Berlin"}, "active": True, "slug": "mine"}]
    room.ask("PATCH", f"{address}/schedules/{nightly['id']}", json={"active": True})
    room.ask("POST", f"{address}/schedules", json=made)
    room.ask("PATCH", address, json={"concurrency_limit": 1})  # as an older version had it

    done = room.deploy("--retry-after", "1")

    after = room.deployment()
    assert done.returncode == 0, done.stderr
    assert {one["slug"]: one["active"] for one in after["schedules"]} == {"nightly": True, "mine": True}
    assert after["global_concurrency_limit"] is None
    assert str(ROOT) not in json.dumps(after)
    for schedule in after["schedules"]:
        room.ask("PATCH", f"{address}/schedules/{schedule['id']}", json={"active": False})


@pytest.mark.thorough
def test_a_copy_under_another_name_is_watched_and_runs_where_its_worker_is(worked, tmp_path):
    ours = worked.deployment()
    kept = ("flow_id", "entrypoint", "parameters", "parameter_openapi_schema", "work_pool_name", "job_variables")
    copy = worked.ask("POST", "/deployments/", json={name: ours[name] for name in kept} | {"name": "a-copy"})
    request = {"config": "smoke", "auto_resume": True, "run_dir": "in-the-copy", "set": DIVERGES}

    worked.run(request, "train-pipeline/a-copy")
    ends = worked.settled(Path("in-the-copy"), ("GaveUp", 3))

    assert ends == [("Failed", 1), ("Failed", 2), ("GaveUp", 3)]
    assert {run["deployment_id"] for run in worked.attempts(Path("in-the-copy"))} == {copy["id"]}
    assert (worked.home / "in-the-copy" / "checkpoints").is_dir()


def test_a_short_name_runs_the_deployment_from_the_root_of_the_repository(room):
    environment = {name: value for name, value in room.environment.items() if name != "PREFECT_PLUGINS_ENABLED"}

    done = subprocess.run(
        [sys.executable, "-m", "prefect", "deployment", "run", "train-pipeline", "--start-in", "10 hours"],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    [run] = [one for one in room.runs() if one["state"]["name"] == "Scheduled"]
    assert run["deployment_id"] == room.deployment()["id"]
    room.ask("DELETE", f"/flow_runs/{run['id']}")


def test_short_names_work_in_every_directory_once_the_profile_allows_them(room, tmp_path):
    asked = room.deploy("--short-names")
    allowed = room.deploy("--short-names", "--yes")
    environment = {name: value for name, value in room.environment.items() if name != "PREFECT_PLUGINS_ENABLED"}

    done = subprocess.run(
        [sys.executable, "-m", "prefect", "deployment", "run", "evaluate-only", "--start-in", "10 hours"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert asked.returncode == 2
    assert "--yes does it without asking" in asked.stderr
    assert allowed.returncode == 0, allowed.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    [run] = [one for one in room.runs() if one["state"]["name"] == "Scheduled"]
    room.ask("DELETE", f"/flow_runs/{run['id']}")


@pytest.mark.slow
def test_a_run_that_is_killed_is_run_again_by_itself_to_the_same_weights(worked, tmp_path, pipeline):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    straight.mkdir()
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    assert pipeline("--config", "configs/smoke.yaml", *settings, cwd=straight).returncode == 0
    request = {"config": "configs/smoke.yaml", "auto_resume": True, "run_dir": str(killed), "set": SETTINGS}
    worked.run(request)

    for attempt in (1, 2):
        state = killed / "checkpoints" / "resume" / ("operator.pt" if attempt == 1 else "operator.previous.pt")
        before = modified(state)
        worked.wait_for(lambda s=state, b=before: modified(s) > b)
        os.kill(trainer_of(killed), signal.SIGKILL)
        worked.wait_for(lambda n=attempt: [name for name, _ in worked.states(killed)].count("Crashed") == n)
    ends = worked.settled(killed, ("Completed", 3))

    assert ends == [("Crashed", 1), ("Crashed", 2), ("Completed", 3)]
    assert weights_in(killed) == weights_in(straight)
    runs = worked.attempts(killed)
    assert "AUTOMATION" in {run["created_by"]["type"] for run in runs[1:]}
    assert all(run["name"].startswith(f"smoke in killed · attempt {n} · ") for n, run in enumerate(runs, start=1))
    chain = f"chain:{runs[0]['id'][:8]}"
    assert all(chain in run["tags"] for run in runs)
    assert_shown(worked, runs[-1]["id"], f"-{key_ending(killed)}")
    logged = worked.ask("POST", "/logs/filter", json={"logs": {"flow_run_id": {"any_": [runs[-1]["id"]]}}})
    assert any("operator: completed" in line["message"] for line in logged)


def assert_shown(room, flow_run, ending):
    """The table of stages, a full bar for each stage that trained, and the report."""
    wanted = {"artifacts": {"flow_run_id": {"any_": [flow_run]}}}
    found = {one["key"].removesuffix(ending): one for one in room.ask("POST", "/artifacts/filter", json=wanted)}
    rows = {row["stage"]: row for row in json.loads(found["stage-status"]["data"])}
    assert list(rows) == [*SPECS, "small_eval", "full_eval"]
    assert {row["status"] for row in rows.values()} == {"completed"}
    assert rows["operator"]["step"] == "600 of 600, epoch 3 of 3"
    assert rows["operator"]["checkpoint"] == "operator_ema.pt"
    assert rows["operator"]["result"].startswith("loss ")
    assert rows["full_eval"]["result"].startswith("nRMSE ")
    assert found["steady-prior"]["data"] == 100
    assert "HTML report: " in found["pipeline-report"]["data"]
    assert "nRMSE" in found["pipeline-report"]["data"]
    assert "](data:image/svg+xml;base64," in found["pipeline-report"]["data"]


def ended(room, flow_run):
    """Its state, once it is final."""
    state = room.ask("GET", f"/flow_runs/{flow_run}")["state"]
    return state if state["type"] in FINAL else None


def test_a_chain_that_is_too_long_gives_up(worked, tmp_path):
    request = {"config": "configs/smoke.yaml", "run_dir": str(tmp_path / "run")}
    flow_run = worked.run(request, attempt=6, max_attempts=5)

    state = worked.wait_for(lambda: ended(worked, flow_run))

    assert (state["type"], state["name"]) == ("CANCELLED", "GaveUp")
    assert not (tmp_path / "run").exists()


def test_a_person_is_told_when_a_chain_gives_up(worked, listener, tmp_path):
    make = (
        "import sys; from prefect.blocks.notifications import CustomWebhookNotificationBlock as Block; "
        "Block(name='ear', url=sys.argv[1], json_data={'said': '{{subject}} {{body}}'}).save('ear', overwrite=True)"
    )
    address = f"http://127.0.0.1:{listener.server_address[1]}/"
    command = [sys.executable, "-c", make, address]
    subprocess.run(command, env=worked.environment, cwd=tmp_path, check=True, capture_output=True)
    assert worked.deploy("--retry-after", "1", "--notify", "custom-webhook/ear").returncode == 0

    worked.run({"config": "configs/smoke.yaml", "run_dir": str(tmp_path / "run")}, attempt=6, max_attempts=5)
    worked.wait_for(lambda: listener.heard, "a notification")

    assert "GaveUp" in listener.heard[0]
    assert "5 attempts did not finish it" in listener.heard[0]


@pytest.mark.slow
@pytest.mark.thorough
def test_bad_input_is_not_tried_again_and_the_same_error_not_a_third_time(worked, tmp_path):
    bad, diverging = tmp_path / "bad", tmp_path / "diverging"
    worked.run({"config": "configs/smoke.yaml", "run_dir": str(bad), "set": ["latent.dimm=3"]})
    worked.run({"config": "configs/smoke.yaml", "run_dir": str(diverging), "set": DIVERGES, "auto_resume": True})
    torn = tmp_path / "torn"
    worked.run({"config": "configs/smoke.yaml", "run_dir": str(torn), "auto_resume": True, "force_train": True})

    ends = worked.settled(diverging, ("GaveUp", 3))

    assert worked.settled(bad, ("BadInput", 1)) == [("BadInput", 1)]
    assert worked.settled(torn, ("BadInput", 1)) == [("BadInput", 1)]
    assert "contradict each other" in worked.attempts(torn)[0]["state"]["message"]
    assert "latent.dimm" in worked.runs(root=bad)[0]["state"]["message"]
    assert ends == [("Failed", 1), ("Failed", 2), ("GaveUp", 3)]
    said = worked.attempts(diverging)[-1]["state"]["message"]
    assert "the same error twice" in said
    assert "Lower stages.operator.lr" in said


def test_a_server_with_a_password_answers_nobody_without_it(tmp_path):
    password = "admin:canary0password0nobody0must0find"
    keys = {"PREFECT_SERVER_API_AUTH_STRING": password, "PREFECT_API_AUTH_STRING": password}
    with prefect_stack(tmp_path, keys) as room:
        refused = httpx.post(f"{room.url}/flows/filter", json={}).status_code
        wrong = httpx.post(f"{room.url}/flows/filter", json={}, auth=("admin", "wrong")).status_code
        right = httpx.post(f"{room.url}/flows/filter", json={}, auth=("admin", password.partition(":")[2])).status_code
        with_it = room.deploy()
        del room.environment["PREFECT_API_AUTH_STRING"]
        without = room.deploy()

    assert (refused, wrong, right) == (401, 401, 200)
    assert with_it.returncode == 0, with_it.stderr
    assert without.returncode == 2
    assert "PREFECT_API_AUTH_STRING" in without.stderr
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and b"canary0password" in path.read_bytes()]
    assert kept == []
