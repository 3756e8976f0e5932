"""Faults that no unit shows: full disks, vanished directories, processes that are stopped or outlive their parents."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from flows import ROOT
from flows.requests.job import parse, plan_of
from harness import PYTHONPATH
from harness.chaos.checks import outcome, violations
from harness.chaos.faulted_run import flip_bit
from harness.chaos.processes import Forked, end
from harness.chaos.processes import finish as let_finish
from harness.chaos.workload import LONG, REFUSED, STOPPED
from tasks.services.run.lock import is_owned, owned, wait_until_free
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from ups_models.errors import BadInput


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """What an undisturbed run of the harness's small pipeline ends with, and how long it takes."""
    root = tmp_path_factory.mktemp("reference")
    started = time.monotonic()
    assert let_finish(Forked(LONG, root, root / "log")) == 0, (root / "log").read_text("utf-8")
    return outcome(RunDir.of(root, root / "checkpoints")), time.monotonic() - started, root


@pytest.fixture
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "log"


def run_in(root, smoke):
    return RunDir.of(root, smoke.checkpoint.dir)


def training_started(root):
    deadline = time.monotonic() + 60
    while not (root / "reports" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.005)


def finish(root, log, smoke, reference):
    """Resume to the end; the outcome must be that of the undisturbed run."""
    assert let_finish(Forked(LONG, root, log)) == 0, log.read_text("utf-8")
    assert violations(run_in(root, smoke), finished=True) == []
    assert outcome(run_in(root, smoke)) == reference[0]


def test_a_path_with_spaces_and_other_letters_is_a_path(tmp_path, log, smoke, reference):
    root = tmp_path / "ein Lauf mit Größe, 数"
    root.mkdir()

    finish(root, log, smoke, reference)


def test_a_symlinked_run_directory_is_the_run_directory(tmp_path, log, smoke, reference):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    child = Forked(LONG, tmp_path / "link", log)
    training_started(tmp_path / "real")

    assert let_finish(Forked(LONG, tmp_path / "real", log)) == REFUSED
    assert let_finish(child) == 0
    assert outcome(run_in(tmp_path / "real", smoke)) == reference[0]


def test_a_run_directory_on_another_file_system_is_no_different(log, smoke, reference):
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no second file system that may be written here")
    root = ROOT.__class__("/dev/shm") / f"ups-test-{os.getpid()}"
    root.mkdir()
    try:
        end(Forked(LONG, root, log), 0.5 * reference[1], signal.SIGKILL)
        finish(root, log, smoke, reference)
    finally:
        shutil.rmtree(root)


def test_a_stopped_process_keeps_its_run_and_goes_on(tmp_path, log, smoke, reference):
    child = Forked(LONG, tmp_path, log)
    training_started(tmp_path)
    child.send(signal.SIGSTOP)

    refused = let_finish(Forked(LONG, tmp_path, log))
    child.send(signal.SIGCONT)

    assert refused == REFUSED
    assert f"process {child.pid} on" in log.read_text("utf-8")
    assert let_finish(child) == 0
    assert outcome(run_in(tmp_path, smoke)) == reference[0]


def test_a_child_that_outlives_its_killed_parent_is_named(tmp_path, log, smoke):
    run = run_in(tmp_path, smoke)
    ours, theirs = os.pipe()
    holder = os.fork()
    if not holder:
        with owned(run):
            child = os.fork()
            if child:
                os.write(theirs, str(child).encode())
            signal.pause()
        os._exit(0)
    child = int(os.read(ours, 20))
    os.close(ours)
    os.close(theirs)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)

    try:
        with (
            pytest.raises(BadInput, match=rf"process {holder} .* has ended, but a process that it left behind"),
            owned(run),
        ):
            pytest.fail("two owners")
    finally:
        os.kill(child, signal.SIGKILL)


def test_the_attempt_after_one_that_lives_waits_for_it_but_not_for_one_that_hangs(tmp_path, log, smoke):
    child = Forked(LONG, tmp_path, log)
    training_started(tmp_path)
    run = run_in(tmp_path, smoke)

    child.send(signal.SIGSTOP)
    wait_until_free(run, patience_s=0.5)
    hung = is_owned(run)
    child.send(signal.SIGCONT)
    wait_until_free(run)

    assert hung
    assert not is_owned(run)
    assert let_finish(child) == 0


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from harness.chaos.workload import LONG, run_plainly
from ups_models.errors import UPSError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    run_plainly(LONG, Path(sys.argv[1]))
except UPSError as error:
    print(type(error).__name__, error)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize(
    ("limit", "remove", "victim"),
    [
        (60_000, ["checkpoints", "reports"], "resume/operator.pt"),
        (300, ["checkpoints", "reports"], "config.yaml"),
        (9_000, ["reports/full_eval.json"], "stage_status.json"),
        (20_000, ["reports/report.html", "reports/full_eval.json"], "full_eval.npz"),
    ],
)
def test_a_full_disk_fails_in_one_line_and_leaves_what_was_there(
    tmp_path, log, smoke, reference, limit, remove, victim
):
    shutil.copytree(reference[2], tmp_path, dirs_exist_ok=True)
    for name in remove:
        path = tmp_path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    full = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), str(limit)],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=False,
    )

    assert full.returncode == 1, full.stdout + full.stderr
    assert victim in full.stdout
    assert "what was there before is still whole" in full.stdout
    read_status(tmp_path / "checkpoints" / "stage_status.json")
    assert not list(tmp_path.rglob("*.tmp~"))
    finish(tmp_path, log, smoke, reference)


def test_a_kill_in_an_evaluation_costs_that_evaluation_alone(tmp_path, log, smoke, reference):
    shutil.copytree(reference[2], tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "reports").glob("full_eval*"):
        path.unlink()

    code = let_finish(Forked(LONG, tmp_path, log, hook=die_at_path("full_eval.md")))

    assert code == -signal.SIGKILL
    assert violations(run_in(tmp_path, smoke), finished=False) == []
    finish(tmp_path, log, smoke, reference)


def die_at_path(name):
    def hook(_point, path):
        if name in path.name:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def test_a_kill_while_skipping_costs_nothing(tmp_path, log, smoke, reference):
    shutil.copytree(reference[2], tmp_path, dirs_exist_ok=True)

    code = let_finish(Forked(LONG, tmp_path, log, hook=die_at_path("")))

    assert code == -signal.SIGKILL
    finish(tmp_path, log, smoke, reference)


def test_two_starts_at_the_same_moment_are_one_run(tmp_path, log, smoke, reference):
    children = [Forked(LONG, tmp_path, log) for _ in range(2)]

    codes = sorted(let_finish(child) for child in children)

    assert codes == [0, REFUSED]
    assert outcome(run_in(tmp_path, smoke)) == reference[0]


def test_sigterm_stops_within_seconds_and_loses_no_step(tmp_path, log, smoke, reference):
    child = Forked(LONG, tmp_path, log)
    training_started(tmp_path)
    started = time.monotonic()

    code = end(child, 0.05, signal.SIGTERM).code

    assert code == STOPPED
    assert time.monotonic() - started < 10  # what docker stop grants
    finish(tmp_path, log, smoke, reference)


def test_a_second_sigterm_ends_at_once_without_damage(tmp_path, log, smoke, reference):
    child = Forked(LONG, tmp_path, log)
    training_started(tmp_path)
    child.send(signal.SIGTERM)

    assert end(child, 0.0, signal.SIGTERM).code == STOPPED
    assert violations(run_in(tmp_path, smoke), finished=False) == []
    finish(tmp_path, log, smoke, reference)


@pytest.mark.parametrize("damaged", ["operator.pt", "operator.previous.pt"])
def test_a_damaged_saved_state_costs_one_interval_and_no_bit(tmp_path, log, smoke, reference, damaged):
    end(Forked(LONG, tmp_path, log, hook=die_at_the_third("moved aside")), 60, signal.SIGKILL)
    end(Forked(LONG, tmp_path, log, hook=die_at_the_third("directory flushed", "operator.pt")), 60, signal.SIGKILL)
    states = run_in(tmp_path, smoke).checkpoints / "resume"
    assert {path.name for path in states.glob("*.pt")} == {"operator.pt", "operator.previous.pt"}

    flip_bit(states / damaged, random.Random(0))
    operator = plan_of(parse(LONG.request(tmp_path))).stages[0]

    assert operator.action == "resume"
    assert ("resumes from the one before" in operator.reason) == (damaged == "operator.pt")
    finish(tmp_path, log, smoke, reference)


def die_at_the_third(point, name=""):
    left = [3]

    def hook(passed, path):
        if passed == point and name in path.name:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def test_times_in_the_future_are_no_obstacle(tmp_path, log, smoke, reference):
    end(Forked(LONG, tmp_path, log), 0.4 * reference[1], signal.SIGKILL)
    path = tmp_path / "checkpoints" / "stage_status.json"
    if path.exists():
        path.write_text(path.read_text("utf-8").replace('"2026-', '"2926-'), encoding="utf-8")

    finish(tmp_path, log, smoke, reference)
