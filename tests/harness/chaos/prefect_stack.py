"""A Prefect server with workers on loopback, in a folder of its own, to be disturbed and asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from flows import ROOT
from flows.prefect.automations import ENDS, RESTART_POLICIES
from flows.prefect.chain import DUPLICATE
from flows.prefect.server import QUIET
from flows.requests.attempts import number_in
from harness.ports import free_port

DEPLOYMENT = "train-pipeline/train-pipeline"
FLOWS = [policy.flow for policy in RESTART_POLICIES]
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class TooSlow(Exception):
    """Something did not happen in time; says how the runs stand."""


class ControlRoom:
    """Starts and ends the processes, and asks the server as the UI does."""

    def __init__(self, home: Path, environment: Mapping[str, str], within_s: float = 180.0) -> None:
        self.port = free_port()
        self.home, self.within_s = home, within_s
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.ui = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            **QUIET,
            "WANDB_MODE": "disabled",
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_UI_API_URL": self.url,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        self.server: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []
        self.watches: list[subprocess.Popen[bytes]] = []

    def start_server(self) -> None:
        """Start it, or start it again on the same port and database."""
        self.server = self._start("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        self.wait_for(self.is_up, "the server")

    def is_up(self) -> bool:
        """Whether the server answers."""
        try:
            return httpx.get(f"{self.url}/health", timeout=5).is_success
        except httpx.HTTPError:
            return False

    def start_worker(self, folder: Path | None = None) -> subprocess.Popen[bytes]:
        """One more worker, in a folder of its own, if one is given."""
        started = self._start("prefect", "worker", "start", "--pool", "ups", "--type", "process", folder=folder)
        self.workers.append(started)
        return started

    def start_watch(self) -> None:
        """`ups watch`, which `make server` starts as well."""
        self.watches.append(self._start("flows.cli", "watch", "--every", "5"))

    def stop_server(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the server, politely or not."""
        if self.server is not None:
            _end(self.server, number)

    def stop(self) -> None:
        """End everything."""
        for child in [*self.watches, *reversed(self.workers)]:
            _end(child, signal.SIGTERM)
        self.stop_server()

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """A request to the API; its JSON. While SQLite is busy the server answers 503, and is asked again."""
        deadline = time.monotonic() + self.within_s
        while True:
            answer = httpx.request(method, self.url + path, timeout=120, **options)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def deploy(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`ups deploy ARGUMENTS`."""
        return subprocess.run(
            [sys.executable, "-m", "flows.cli", "deploy", *arguments],
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def deployment(self, name: str = DEPLOYMENT) -> Any:
        """A deployment, as the API tells it."""
        return self.ask("GET", f"/deployments/name/{name}")

    def run(self, request: dict[str, Any], deployment: str = DEPLOYMENT, **parameters: Any) -> str:
        """Start a run of the deployment; its id."""
        made = {"parameters": {"request": request, **parameters}}
        identity = self.deployment(deployment)["id"]
        run: dict[str, Any] = self.ask("POST", f"/deployments/{identity}/create_flow_run", json=made)
        return str(run["id"])

    def runs(self, *, root: Path | None = None) -> list[dict[str, Any]]:
        """All runs of our deployments, or those in one run directory, oldest first."""
        wanted = {"flows": {"name": {"any_": FLOWS}}, "sort": "EXPECTED_START_TIME_ASC"}
        found: list[dict[str, Any]] = self.ask("POST", "/flow_runs/filter", json=wanted)
        return [run for run in found if root is None or run["parameters"]["request"].get("run_dir") == str(root)]

    def attempts(self, root: Path) -> list[dict[str, Any]]:
        """The runs in a run directory, without those that answered a crash which was reported twice."""
        return [run for run in self.runs(root=root) if run["state"]["name"] != DUPLICATE]

    def states(self, root: Path) -> list[tuple[str, int]]:
        """(name of the state, attempt) of each of them, oldest first."""
        return [(run["state"]["name"], number_in(run["parameters"])) for run in self.attempts(root)]

    def settled(self, root: Path, last: tuple[str, int]) -> list[tuple[str, int]]:
        """The same once the last of them has ended so and nothing waits any more, such as an answer given twice."""

        def ended() -> list[tuple[str, int]]:
            states = self.states(root)
            return states if last in states and all(name in ENDS for name, _ in states) else []

        found: list[tuple[str, int]] = self.wait_for(ended, f"{last} in {root.name}")
        return found

    def wait_for(self, condition: Callable[[], Any], what: str = "it") -> Any:
        """What the condition gives as soon as it gives something. Raises TooSlow."""
        deadline = time.monotonic() + self.within_s
        while time.monotonic() < deadline:
            try:
                found = condition()
            except httpx.HTTPError:  # SQLite is busy, or the server is down on purpose
                found = None
            if found:
                return found
            time.sleep(0.1)
        runs = [(run["name"], run["state"]["name"]) for run in self.runs()] if self.is_up() else "the server is down"
        raise TooSlow(f"{what}: not within {self.within_s:g} s; {runs}")

    def log(self) -> str:
        """What server and workers said."""
        return (self.home / "log").read_text("utf-8", "replace")

    def _start(self, *command: str, folder: Path | None = None) -> subprocess.Popen[bytes]:
        with (self.home / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=folder or self.home,
                env=self.environment,
                stdout=log,
                stderr=log,
                preexec_fn=_listen_to_sigint,  # noqa: PLW1509 - no threads run yet
            )


@contextmanager
def prefect_stack(
    home: Path, environment: Mapping[str, str] | None = None, within_s: float = 180.0
) -> Iterator[ControlRoom]:
    """A server that is up, until the block ends."""
    room = ControlRoom(home, environment or {}, within_s)
    try:
        room.start_server()
        yield room
    finally:
        room.stop()


def trainer_of(root: Path) -> int:
    """The process that owns a run directory."""
    return int(json.loads((root / "checkpoints" / ".owner").read_text("utf-8"))["pid"])


def _listen_to_sigint() -> None:
    """With SIGINT ignored, as in a background job, Prefect ignores SIGTERM as well."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    child.send_signal(number)
    try:
        child.wait(20)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
