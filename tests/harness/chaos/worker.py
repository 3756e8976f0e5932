"""Lives under a Prefect worker: a work pool, a deployment, and the flow runs that the worker starts as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from flows import ROOT
from harness.chaos.workload import Workload

POOL = "chaos"
STATE_WITHIN_S = 30
BUSY_AFTER_S = (0.5, 1, 2, 4, 8, 8, 8)
CODES = {"COMPLETED": 0, "CRASHED": -signal.SIGKILL}
DEPLOY = """
import sys
from prefect import flow
flow.from_source(source=sys.argv[1], entrypoint="flows/pipeline.py:train_pipeline").deploy(
    name="chaos", work_pool_name=sys.argv[2], print_next_steps=False
)
"""


@contextmanager
def work_pool(log: Path) -> Iterator[str]:
    """A process worker on the server that PREFECT_API_URL names; yields the id of the deployment that it serves."""
    _ask("POST", "/work_pools/", json={"name": POOL, "type": "process"})
    with log.open("ab") as output:
        subprocess.run([sys.executable, "-c", DEPLOY, str(ROOT), POOL], check=True, stdout=output, stderr=output)
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL],
            stdout=output,
            stderr=output,
            env={**os.environ, "PREFECT_WORKER_QUERY_SECONDS": "1", "PYTHONPATH": str(ROOT)},
            preexec_fn=_listen_to_sigint,  # noqa: PLW1509 - no threads run yet
        )
    try:
        yield str(_ask("GET", "/deployments/name/train-pipeline/chaos")["id"])
    finally:
        worker.terminate()
        try:
            worker.wait(STATE_WITHIN_S)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


class WorkerRun:
    """A flow run that the worker starts; the signal goes to the process of the flow, not to the worker."""

    kind = "worker"

    def __init__(self, workload: Workload, directory: Path, deployment: str) -> None:
        parameters = {"request": workload.request(directory).model_dump(mode="json")}
        made = _ask("POST", f"/deployments/{deployment}/create_flow_run", json={"parameters": parameters})
        self.id = str(made["id"])
        self.pid: int | None = None
        self.code: int | None = None
        self.sent: signal.Signals | None = None

    def poll(self) -> int | None:
        """Like an exit code: 0 when Prefect calls the run completed, the signal's when it says crashed, else 1."""
        if self.code is not None:
            return self.code
        if self.pid is None:
            self.pid = _process_of(self.id)
        elif not Path(f"/proc/{self.pid}").exists():
            self.code = self._state()
        return self.code

    def send(self, number: signal.Signals) -> None:
        """Signal the flow's process, once there is one."""
        deadline = time.monotonic() + STATE_WITHIN_S
        while self.pid is None and time.monotonic() < deadline:
            time.sleep(0.05)
            self.pid = _process_of(self.id)
        if self.pid is None:
            raise TimeoutError(f"the worker started no process for flow run {self.id} in {STATE_WITHIN_S} s")
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return

    def _state(self) -> int:
        deadline, state = time.monotonic() + STATE_WITHIN_S, ""
        while state not in CODES and time.monotonic() < deadline:
            state = str(_ask("GET", f"/flow_runs/{self.id}")["state_type"])
            time.sleep(0.1)
        return int(CODES.get(state, 1))


def _listen_to_sigint() -> None:
    """A worker that inherited an ignored SIGINT, as from a background job, would ignore SIGTERM as well."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _ask(method: str, path: str, **options: Any) -> dict[str, Any]:
    """An answer of Prefect's API; asked again while its database is busy, as Prefect's own client does."""
    for pause_s in (*BUSY_AFTER_S, None):
        answer = httpx.request(method, os.environ["PREFECT_API_URL"] + path, timeout=60, **options)
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or pause_s is None:
            break
        time.sleep(pause_s)
    if answer.is_error:
        raise RuntimeError(f"Prefect answers {method} {path} with {answer.status_code}: {answer.text}")
    found: dict[str, Any] = answer.json()
    return found


def _process_of(flow_run: str) -> int | None:
    """The process whose environment names the flow run."""
    marks = [f"PREFECT__FLOW_RUN_ID={form}\0".encode() for form in (flow_run, flow_run.replace("-", ""))]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:  # it ended while we looked, or is another user's
            continue
        if any(mark in environment for mark in marks):
            return int(folder.name)
    return None
