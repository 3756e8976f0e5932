"""A launch with a deadline, on a market where its machine is outbid: real command, real script, real clock."""

import json
import os
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from harness.chaos import remote
from harness.chaos.remote import ARGUMENTS, VAST_KEY, WANDB_KEY, environment_in, sets_in
from harness.emulators.vast.emulator import VastEmulator
from harness.emulators.wandb.server import WandbServer, client_environment

QUICK = (
    "--poll-s",
    "1",
    "--lost-after-s",
    "2",
    "--expected-hours",
    "1",
    "--set",
    "stages.operator.steps_per_epoch=400",
)
WITHIN_S = 480


def in_hours(hours):
    return f"{datetime.now(UTC) + timedelta(hours=hours):%Y-%m-%dT%H:%M}+00:00"


@pytest.fixture
def world(tmp_path):
    """A market with one machine, bid for at 0.18 and on demand for 0.40 USD/h; W&B; and what starts a launch."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (
        WandbServer() as wandb,
        VastEmulator(
            tmp_path / "cloud", api_key=VAST_KEY, instance_path=path, instance_env={"OMP_NUM_THREADS": "1"}
        ) as cloud,
    ):
        cloud.add_offer(min_bid=0.15, dph_total=0.40)
        variables = (
            environment_in(tmp_path) | client_environment(wandb.url, tmp_path, WANDB_KEY) | {"VAST_URL": cloud.url}
        )
        running = []

        def launch(*arguments):
            running.append(remote.launch(tmp_path, variables, [*ARGUMENTS, *QUICK, *arguments]))
            return running[0]

        yield cloud, wandb, launch, tmp_path
        for one in running:
            with suppress(ProcessLookupError):
                one.kill()
            one.wait()


def entries(scratch):
    lines = (scratch / "run" / "rented.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def wait_until(condition, launch):
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert launch.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.thorough
def test_an_outbid_machine_is_bid_for_again_and_trains_to_the_end(world):
    cloud, wandb, start, scratch = world

    launch = start("--deadline", in_hours(3))
    wait_until(lambda: sets_in(wandb) >= 2, launch)
    [one] = cloud.live()
    cloud.preempt(one.id)

    assert launch.wait(WITHIN_S) == 0, (scratch / "launch.log").read_text("utf-8")
    assert [other.id for other in cloud.instances] == [one.id]
    assert cloud.live() == []
    journal = entries(scratch)
    [bid] = [entry["usd_per_hour"] for entry in journal if entry["event"] == "bid"]
    decided = [(entry["choice"], entry["why"]) for entry in journal if entry["event"] == "decided"]
    assert 0.18 < bid < 0.40
    assert decided[0][0] == "spot"
    assert "h of work (measured in this training)" in decided[0][1]
    assert [entry["gpu"] for entry in journal if entry["event"] == "pace"] == ["RTX 4090"]


@pytest.mark.slow
@pytest.mark.thorough
def test_where_there_is_no_time_to_lose_a_machine_is_rented_on_demand(world):
    cloud, wandb, start, scratch = world

    launch = start("--deadline", in_hours(1.48))
    wait_until(lambda: sets_in(wandb) >= 1, launch)

    [one] = cloud.live()
    assert not one.is_bid
    assert launch.wait(WITHIN_S) == 0, (scratch / "launch.log").read_text("utf-8")


def test_a_deadline_that_cannot_be_met_is_refused_with_when_it_would_be_done(world):
    cloud, _, start, scratch = world

    assert start("--deadline", in_hours(0.5)).wait(WITHIN_S) == 2

    said = (scratch / "launch.log").read_text("utf-8")
    assert "cannot be met: 1.1 h and 0." in said
    assert "is done by" in said
    assert cloud.instances == []
