"""What README and docs tell a reader to type is typed here, page by page, as it stands, against servers on loopback."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows import ROOT
from harness.chaos.prefect_stack import ControlRoom
from harness.chaos.remote import MARKET_KEYS, RUNPOD_KEY, VAST_KEY
from harness.emulators.runpod.emulator import RunpodEmulator
from harness.emulators.sshd import lan
from harness.emulators.vast.emulator import VastEmulator

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LONG = ("processes.md", "ssh.md", "sweeps.md", "vast.md", "wandb.md")
"""Pages whose commands train for minutes what test_ranks.py, test_tracking.py and others train in short."""
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
RECIPES = dict(re.findall(r"^([a-z0-9-]+):.*\n((?:\t.*\n)*)", MAKEFILE, re.MULTILINE))
"""What each target runs."""
CI = (ROOT / ".ci" / "run").read_text("utf-8")
IN_CI = re.compile(r"make (test.*|coverage|lint|demo-.*|chaos.*|trust.*|bench-.*)")
"""Of the commands, those that are steps of CI, with small arguments."""
IN_A_TEST = ("make server",)
"""test_server.py starts it, and presses Ctrl-C."""
OF_SECONDS = ("quickstart.yaml", "burgers_32dim.yaml")
"""Configs of minutes and hours, in whose place the checkout has smoke.yaml."""


def commands_of(page):
    """Every command of the page's bash blocks, as a reader would paste it; what sets a variable is left out."""
    lines = "".join(BLOCK.findall(page.read_text("utf-8"))).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+# .*", "", line) for line in lines if line and not line.startswith("export ")]


@pytest.fixture(scope="module")
def prefect_alone(tmp_path_factory):
    """A Prefect server that may be deployed to, without a worker: what is started there only waits."""
    room = ControlRoom(tmp_path_factory.mktemp("prefect"), {})
    try:
        room.start_server()
        yield room.environment
    finally:
        room.stop()


@pytest.fixture
def checkout(tmp_path):
    """The repository as a clone of it would be, whose configs take seconds."""
    root = tmp_path / "a checkout"
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    smoke = (ROOT / "configs" / "smoke.yaml").read_text("utf-8").replace("{threads: 1}", "{threads: 1, device: cpu}")
    for name in OF_SECONDS:
        (root / "configs" / name).write_text(smoke, encoding="utf-8")
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    (root / ".venv").symlink_to(sys.prefix)
    return root


@pytest.fixture
def own_machines(page, tmp_path):
    """Of a reader who has machines that they log in to."""
    if "--provider ssh" not in "".join(commands_of(page)):
        yield {}
        return
    with lan(tmp_path / "lan") as net:
        for name in ("gpu1", "gpu2"):
            host = net.add(name)
            host.use_python(sys.executable)
            host.has_disk(100)
        yield {"UPS_SSH_CONFIG": str(net.config)}
        assert [pid for host in net.hosts.values() for pid in host.living()] == []


@pytest.fixture
def environment(tmp_path, prefect_alone, wandb_environment, own_machines):
    """Of a reader with accounts, in an active environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (
        VastEmulator(tmp_path / "cloud", api_key=VAST_KEY, instance_path=path) as vast,
        RunpodEmulator(tmp_path / "pods", api_key=RUNPOD_KEY, instance_path=path) as runpod,
    ):
        vast.default_market()
        runpod.default_market()
        accounts = {"VAST_URL": vast.url, "RUNPOD_URL": f"{runpod.url}/v2", **MARKET_KEYS, "HOME": str(tmp_path)}
        yield {**prefect_alone, **wandb_environment, **own_machines, **accounts, "PATH": path}
        assert (vast.live(), runpod.live()) == ([], [])


def filled(command, checkout):
    """The command with what a reader puts in: its own run, its own files."""
    config, run = f"configs/{OF_SECONDS[0]}", run_of(checkout)
    own = {"CONFIG": config, "C": config, "RUN_DIR": ".", "/runs/a": str(checkout / "a")}
    own |= dict.fromkeys(("RUN", "train-20251028_120000"), run)
    for name, value in own.items():
        command = re.sub(rf'(?<=[ "]){name}(?=[ "]|$)', value, command)
    return f"{command} --run-once" if command.startswith("prefect worker start") else command  # it would not end


def run_of(checkout):
    """The W&B run of what was trained in the checkout, or from there on a machine; empty before that."""
    journal, status = checkout / "rented.jsonl", checkout / "checkpoints" / "stage_status.json"
    if journal.exists():
        entries = map(json.loads, journal.read_text("utf-8").splitlines())
        return next(entry["job"]["run"] for entry in entries if entry["event"] == "began")
    return json.loads(status.read_text("utf-8"))["wandb"]["id"] if status.exists() else ""


@pytest.mark.slow
@pytest.mark.timeout(3600)  # each command has a limit of its own
@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.name, marks=[pytest.mark.thorough] * (page.name in LONG)) for page in PAGES]
)
def test_every_command_of_a_page_works(page, checkout, environment):
    for command in commands_of(page):
        if IN_CI.fullmatch(command) or command in IN_A_TEST:
            continue

        done = subprocess.run(
            ["bash", "-c", filled(command, checkout)],
            cwd=checkout, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def steps_of_ci():
    """The targets that CI makes, and those that these make in turn."""
    steps = set(re.findall(r"^make ([a-z0-9-]+)", CI, re.MULTILINE))
    made = [line for step in steps for line in RECIPES[step].splitlines() if "$(MAKE)" in line]
    return steps | {word for line in made for word in line.split() if word in RECIPES}


def test_ci_runs_every_tier():
    assert {"lint", "test", "test-e2e", "test-harness"} <= steps_of_ci()


def test_what_no_test_types_is_a_step_of_ci():
    steps = {command.split()[1] for page in PAGES for command in commands_of(page) if IN_CI.fullmatch(command)}

    assert steps
    assert steps - steps_of_ci() == set()


def test_a_target_that_is_mentioned_exists():
    mentioned = {target for page in PAGES for target in re.findall(r"`make ([a-z0-9-]+)", page.read_text("utf-8"))}

    assert mentioned <= RECIPES.keys()


@pytest.mark.parametrize("path", PAGES, ids=[path.name for path in PAGES])
def test_a_link_of_the_docs_leads_somewhere(path):
    for target in LINK.findall(path.read_text("utf-8")):
        assert (path.parent / target).exists(), target


def test_there_is_something_to_check():
    assert sum(len(commands_of(page)) for page in PAGES) > 30
