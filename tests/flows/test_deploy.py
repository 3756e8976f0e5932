"""`ups deploy` on a real Prefect server and worker: a run that dies is run again by itself, to the same weights."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from chaos.checks import outcome
from flows import ROOT
from flows.server import QUIET
from tasks.services.run_dir import RunDir
from tests.conftest import UNTRACKED

WITHIN_S = 180
SETTINGS = ["stages.operator.steps_per_epoch=200", "checkpoint.save_every_steps=10"]


def listen_to_sigint():
    """With SIGINT ignored, as in a background job, Prefect ignores SIGTERM as well."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class ControlRoom:
    """A server and, on demand, a worker, in a folder of their own."""

    def __init__(self, home):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.home, self.children = home, []
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.environment = {
            **os.environ, **QUIET, **UNTRACKED, "PREFECT_HOME": str(home), "PREFECT_API_URL": self.url,
            "PREFECT_WORKER_QUERY_SECONDS": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def start(self, *command):
        with (self.home / "log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "prefect", *command],
                cwd=self.home, env=self.environment, stdout=log, stderr=log,
                preexec_fn=listen_to_sigint,  # noqa: PLW1509 - no threads run yet
            )  # fmt: skip
        self.children.append(child)

    def stop(self):
        for child in reversed(self.children):
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def ask(self, method, path, **options):
        answer = httpx.request(method, self.url + path, timeout=30, **options)
        answer.raise_for_status()
        return answer.json()

    def deploy(self, *arguments):
        return subprocess.run(
            [sys.executable, "-m", "flows.cli", "deploy", *arguments],
            env=self.environment, cwd=self.home, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def deployment(self, name="train-pipeline/train-pipeline"):
        return self.ask("GET", f"/deployments/name/{name}")

    def run(self, request, **parameters):
        made = {"parameters": {"request": request, **parameters}}
        return self.ask("POST", f"/deployments/{self.deployment()['id']}/create_flow_run", json=made)["id"]

    def runs(self):
        return self.ask("POST", "/flow_runs/filter", json={"sort": "EXPECTED_START_TIME_ASC"})

    def wait_for(self, condition):
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            found = condition()
            if found:
                return found
            time.sleep(0.3)
        pytest.fail(f"not within {WITHIN_S} s: {[(r['name'], r['state']['name']) for r in self.runs()]}")


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A server with everything deployed, and a worker."""
    room = ControlRoom(tmp_path_factory.mktemp("room"))
    room.start("server", "start", "--host", "127.0.0.1", "--port", str(room.port))
    try:
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{room.url}/health").is_success:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield room
    finally:
        room.stop()


def test_without_a_server_it_says_what_to_do(room, tmp_path):
    without = {name: value for name, value in room.environment.items() if name != "PREFECT_API_URL"}

    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "deploy"],
        env=without, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 2
    assert "PREFECT_API_URL is not set" in done.stderr


def test_a_dry_run_makes_nothing(room):
    done = room.deploy("--dry-run")

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("would make") == 4
    assert room.ask("POST", "/deployments/filter", json={}) == []


def test_deploying_twice_makes_everything_once(room):
    for _ in range(2):
        done = room.deploy("--retry-after", "1")
        assert done.returncode == 0, done.stderr

    names = sorted(one["name"] for one in room.ask("POST", "/deployments/filter", json={}))
    automations = room.ask("POST", "/automations/filter", json={})
    assert names == ["evaluate-only", "train-on-vast", "train-pipeline"]
    assert len({one["name"] for one in automations}) == len(automations) == 2
    [nightly] = room.deployment()["schedules"]
    assert nightly["active"] is False


@pytest.mark.slow
def test_a_run_that_is_killed_is_run_again_by_itself_to_the_same_weights(room, tmp_path, pipeline):
    assert room.deploy("--retry-after", "1").returncode == 0
    room.start("worker", "start", "--pool", "ups")
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    straight.mkdir()
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    assert pipeline("--config", "configs/smoke.yaml", *settings, cwd=straight).returncode == 0
    request = {"config": "configs/smoke.yaml", "auto_resume": True, "run_dir": str(killed), "set": SETTINGS}
    room.run(request, attempt=1, max_attempts=5)

    for attempt in (1, 2):
        lock = killed / "checkpoints" / ".owner"
        state = killed / "checkpoints" / "resume" / ("operator.pt" if attempt == 1 else "operator.previous.pt")
        before = state.stat().st_mtime_ns if state.exists() else 0
        room.wait_for(lambda s=state, b=before: s.exists() and s.stat().st_mtime_ns > b)
        os.kill(json.loads(lock.read_text("utf-8"))["pid"], signal.SIGKILL)
        room.wait_for(lambda n=attempt: len([r for r in room.runs() if r["state"]["type"] == "CRASHED"]) == n)
    room.wait_for(lambda: [r for r in room.runs() if r["state"]["type"] == "COMPLETED"])

    chain = [(run["name"], run["state"]["type"], run["parameters"]["attempt"]) for run in room.runs()]
    assert chain == [
        ("smoke · attempt 1", "CRASHED", 1),
        ("smoke · attempt 2", "CRASHED", 2),
        ("smoke · attempt 3", "COMPLETED", 3),
    ]
    one, other = (outcome(RunDir.of(root, root / "checkpoints")) for root in (straight, killed))
    assert {k: v for k, v in one.items() if k.endswith(".pt")} == {k: v for k, v in other.items() if k.endswith(".pt")}


def test_a_chain_that_is_too_long_gives_up(room, tmp_path):
    request = {"config": "configs/smoke.yaml", "run_dir": str(tmp_path / "run")}
    flow_run = room.run(request, attempt=6, max_attempts=5)

    def ended():
        state = room.ask("GET", f"/flow_runs/{flow_run}")["state"]
        return state if state["type"] in ("CANCELLED", "COMPLETED", "FAILED", "CRASHED") else None

    state = room.wait_for(ended)

    assert (state["type"], state["name"]) == ("CANCELLED", "GaveUp")
    assert not (tmp_path / "run").exists()
