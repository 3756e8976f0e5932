"""`ups sweep`: points are trained here or by workers, killed and gone on with, to the same table."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from flows import ROOT
from harness.chaos.prefect_stack import ControlRoom

FILE = """config: smoke
set: [data.generate.n=24, stages.steady_prior.epochs=0]
grid:
  operator.width: [8, 16]
"""


def command(home, *arguments):
    return [sys.executable, "-m", "flows.cli", "sweep", str(home / "sweep.yaml"), "--seeds", "1", *arguments]


@pytest.fixture
def home(tmp_path):
    (tmp_path / "sweep.yaml").write_text(FILE)
    return tmp_path


ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}


def run(arguments, home, environment=ENVIRONMENT):
    return subprocess.run(arguments, cwd=home, env=environment, capture_output=True, text=True, check=False)


def killed_after(seconds, arguments, home, environment=ENVIRONMENT):
    process = subprocess.Popen(arguments, cwd=home, env=environment, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()


def errors_in(folder):
    return {row["point"]: row["errors"] for row in json.loads((folder / "leaderboard.json").read_text())}


def test_a_sweep_that_is_killed_goes_on_to_the_table_of_one_that_is_not(home):
    undisturbed = run(command(home, "--out", "one"), home)
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert "operator.width=8" in undisturbed.stdout

    for seconds in (8, 16):
        killed_after(seconds, command(home, "--out", "two"), home)
    again = run(command(home, "--out", "two"), home)

    assert again.returncode == 0, again.stderr
    assert errors_in(home / "two") == errors_in(home / "one")
    assert len(list((home / "two" / "data").glob("*.hdf5"))) == 1
    assert (home / "two" / "leaderboard.html").is_file()
    assert run(command(home, "--out", "two"), home).stderr.count(": done") == 2


@pytest.mark.thorough
def test_a_point_that_fails_does_not_stop_the_others(home):
    (home / "sweep.yaml").write_text(FILE + "  data.files: [[], [nowhere.hdf5]]\n  operator.blocks: [1]\n")

    done = run(command(home, "--out", "s"), home)

    assert done.returncode == 1
    assert "some points have no result" in done.stderr
    assert sum(bool(errors) for errors in errors_in(home / "s").values()) == 2
    assert done.stdout.count("nowhere.hdf5: no such") == 2


def test_workers_of_a_pool_train_each_point_once_and_a_pool_that_nobody_deployed_for_is_named(home):
    room = ControlRoom(home, {"UPS_DATA": str(home / "data")})
    arguments = command(home, "--out", str(home / "pool"), "--workers", "ups")
    try:
        room.start_server()
        nobody = run(command(home, "--workers", "gpu"), home, room.environment)
        room.deploy()
        room.start_worker()
        killed_after(20, arguments, home, room.environment)
        done = run(arguments, home, room.environment)
        runs = room.ask("POST", "/flow_runs/filter", json={"flow_runs": {"tags": {"all_": ["sweep:pool"]}}})
        [artifact] = room.ask("POST", "/artifacts/filter", json={"artifacts": {"key": {"any_": ["sweep-pool"]}}})
    finally:
        room.stop()

    assert nobody.returncode == 2
    assert "--workers gpu: no deployment of train-pipeline is for this pool (none); ups deploy" in nobody.stderr
    assert done.returncode == 0, done.stderr
    assert len(runs) == 2
    assert set(errors_in(home / "pool")) == {"operator.width=8", "operator.width=16"}
    assert {row["point"] for row in json.loads(artifact["data"])} == {"operator.width=8", "operator.width=16"}
