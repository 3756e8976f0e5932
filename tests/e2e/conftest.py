"""Fixtures of the end-to-end tier: the real command line, a Prefect server and a W&B server on loopback."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows import ROOT
from flows.prefect.server import QUIET
from harness.chaos.remote import VAST_KEY
from harness.commands import CANARY_KEY, UNTRACKED, Cli, command
from harness.emulators.vast.emulator import VastEmulator
from harness.emulators.wandb.server import WandbServer, client_environment

LONGEST = ("tracking", "ssh_launch", "daily", "deploy", "retries", "server_away", "docs", "browser", "sweep", "launch")
"""Files of minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of minutes come first, so that all workers end at about the same time."""
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONGEST)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[dict[str, str]]:
    """One real Prefect server on loopback; yields the environment that a client of it needs."""
    script = (
        "import os, sys\n"
        "from flows.prefect.server import temporary_server\n"
        "with temporary_server():\n"
        "    print(os.environ['PREFECT_API_URL'], os.environ['PREFECT_HOME'], flush=True)\n"
        "    sys.stdin.read()\n"
    )
    environment = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT)}
    environment.pop("PREFECT_API_URL", None)
    server = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        cwd=ROOT,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    url, its_home = server.stdout.readline().split()
    _wait_for_answer(url)
    yield {"PREFECT_API_URL": url, "PREFECT_HOME": its_home}
    server.stdin.close()
    server.stdout.close()
    server.wait(30)


def _wait_for_answer(url: str) -> None:
    """It listens before it can answer, and a run waits for an answer no longer than for a server that is away."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=60):
            return
        time.sleep(0.1)
    raise AssertionError(f"{url}: the Prefect server of the tests does not answer")


@pytest.fixture(scope="session")
def wandb_server() -> Iterator[WandbServer]:
    """One W&B server on loopback. Tests tell their runs apart by id."""
    with WandbServer() as server:
        yield server


@pytest.fixture(scope="session")
def wandb_environment(wandb_server: WandbServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a process needs to be tracked there, and to leave nothing in the user's home."""
    return client_environment(wandb_server.url, tmp_path_factory.mktemp("wandb"), CANARY_KEY)


@pytest.fixture(scope="session")
def tracked_pipeline(prefect_server: dict[str, str], wandb_environment: dict[str, str]) -> Cli:
    """`python flows/pipeline.py ARGUMENTS`, tracked on loopback."""
    return command(str(ROOT / "flows" / "pipeline.py"), **prefect_server, **wandb_environment)


@pytest.fixture(scope="session")
def tracked_ups(wandb_environment: dict[str, str]) -> Cli:
    """`ups ARGUMENTS`, with W&B on loopback."""
    return command("-m", "flows.cli", PYTHONPATH=str(ROOT), **wandb_environment)


@pytest.fixture(scope="session")
def pipeline(prefect_server: dict[str, str]) -> Cli:
    """`python flows/pipeline.py ARGUMENTS`."""
    return command(str(ROOT / "flows" / "pipeline.py"), **prefect_server)


@pytest.fixture(scope="session")
def stopped_pipeline(prefect_server: dict[str, str]) -> Callable[..., tuple[int, str]]:
    """The pipeline, sent a signal once it trains, or where `after` says so of its pid: exit code and stderr."""

    def run(
        *arguments: str,
        cwd: Path,
        number: signal.Signals = signal.SIGTERM,
        after: str | Callable[[int], bool] = "reports/metrics.jsonl",
        environment: dict[str, str] | None = None,
    ) -> tuple[int, str]:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "flows" / "pipeline.py"), *arguments],
            cwd=cwd,
            env={**os.environ, **UNTRACKED, **prefect_server, **(environment or {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

        def reached() -> bool:
            return (cwd / after).exists() if isinstance(after, str) else after(process.pid)

        deadline = time.monotonic() + 120
        while not reached() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        try:
            _, stderr = process.communicate(timeout=120)
        finally:
            process.kill()
            process.wait()
        return process.returncode, stderr

    return run


@pytest.fixture(scope="session")
def ups() -> Cli:
    """`ups ARGUMENTS`."""
    return command("-m", "flows.cli", PYTHONPATH=str(ROOT))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, pipeline: Cli) -> Path:
    """The directory of a finished smoke run. Tests must copy it before they change it."""
    directory = tmp_path_factory.mktemp("finished")
    done = pipeline("--config", "configs/smoke.yaml", cwd=directory)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[VastEmulator]:
    """An emulated Vast.ai with machines on offer."""
    with VastEmulator(tmp_path / "cloud", api_key=VAST_KEY) as emulator:
        emulator.default_market()
        yield emulator


@pytest.fixture
def ups_there(cloud: VastEmulator, wandb_environment: dict[str, str], tmp_path: Path) -> Cli:
    """`ups`, with accounts and nothing launched."""
    account = {"VAST_URL": cloud.url, "VAST_API_KEY": VAST_KEY, "HOME": str(tmp_path)}
    return command("-m", "flows.cli", PYTHONPATH=str(ROOT), **wandb_environment, **account)
