"""`train-on-vast` as a deployment: killed, its controller goes on; cancelled, it gives its machines back."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from harness.chaos.prefect_stack import prefect_stack
from harness.chaos.remote import SETTINGS, VAST_KEY, WANDB_KEY, environment_in, newest_status, sets_in
from harness.emulators.vast.emulator import VastEmulator
from harness.emulators.wandb.server import WandbServer, client_environment
from tasks.services.rental.providers.local import marked_processes

CONFIG = "configs/smoke.yaml"
FLOW = "train-on-vast/train-on-vast"
LONG = (*SETTINGS, "stages.operator.steps_per_epoch=100")


@pytest.fixture
def rented(tmp_path):
    """A Prefect server with a worker and a watch, Vast.ai and W&B, and a request for a training there."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    root = tmp_path / "rented"
    (tmp_path / "prefect").mkdir()
    request = {"config": CONFIG, "set": LONG, "run_dir": str(root), "poll_s": 1, "max_price": 1}
    with (
        WandbServer() as wandb,
        VastEmulator(
            tmp_path / "cloud", api_key=VAST_KEY, instance_path=path, instance_env={"OMP_NUM_THREADS": "1"}
        ) as cloud,
        prefect_stack(
            tmp_path / "prefect", _account(environment_in(tmp_path), wandb, cloud, tmp_path), within_s=400
        ) as room,
    ):
        cloud.default_market()
        assert room.deploy("--retry-after", "1").returncode == 0
        room.start_worker()
        room.start_watch()
        yield room, cloud, wandb, request, root


def controllers_of(run_id):
    """The processes of a flow run."""
    return marked_processes(f"PREFECT__FLOW_RUN_ID={run_id}")


@pytest.mark.slow
@pytest.mark.thorough
def test_a_controller_that_is_killed_goes_on_by_itself_and_its_double_rents_nothing(rented):
    room, cloud, wandb, request, root = rented

    first = room.run(request, FLOW)
    room.wait_for(lambda: sets_in(wandb) > 0, "a set of checkpoints in W&B")
    for process in controllers_of(first):
        os.kill(process, signal.SIGKILL)
    ends = room.settled(root, ("Completed", 2))
    room.run(request, FLOW, attempt=2, chain=first[:8])
    room.wait_for(lambda: [run["state"]["name"] for run in room.runs(root=root)].count("Duplicate") > 0, "its double")

    assert ends == [("Crashed", 1), ("Completed", 2)]
    assert {record["status"] for record in newest_status(wandb)["stages"].values()} == {"completed"}
    assert (len(cloud.instances), cloud.live()) == (1, [])


@pytest.mark.slow
@pytest.mark.parametrize(
    "hangs",
    [pytest.param(False, id="at once"), pytest.param(True, id="a controller that hangs", marks=pytest.mark.thorough)],
)
def test_a_cancelled_launch_gives_its_machines_back_and_nothing_rents_after_it(rented, hangs):
    room, cloud, _, request, root = rented
    first = room.run(request, FLOW)
    room.wait_for(cloud.live, "a machine")

    stopped = list(controllers_of(first)) if hangs else []
    for process in stopped:
        os.kill(process, signal.SIGSTOP)
    cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    room.ask("POST", f"/flow_runs/{first}/set_state", json=cancelling)
    room.settled(root, ("Cancelled", 1))
    room.wait_for(lambda: not cloud.live(), "the end of all machines")
    time.sleep(8)  # an automation answers within a second or two, if it does
    for process in set(stopped) & set(controllers_of(first)):  # children of the one that the worker killed
        os.kill(process, signal.SIGKILL)

    assert {name for name, _ in room.states(root)} == {"Cancelled"}
    assert (len(cloud.instances), cloud.live()) == (1, [])


def _account(environment, wandb, cloud, scratch):
    return {**environment, **client_environment(wandb.url, scratch, WANDB_KEY), "VAST_URL": cloud.url}
