"""What only a machine or a server that dies can show: missing heartbeats tell, and a server that is back is found."""

import pytest

from harness.chaos.prefect_stack import prefect_stack
from harness.chaos.retries import Runs, files_elsewhere, server_restarted, worker_and_flow_killed


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A control room with a worker."""
    scratch = tmp_path_factory.mktemp("retries")
    home = scratch / "home"
    home.mkdir()
    with prefect_stack(home, within_s=600) as room:
        assert room.deploy("--retry-after", "1").returncode == 0
        room.start_worker()
        room.start_watch()
        yield Runs(room, scratch)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("scenario", "vanished_after_s"),
    [
        pytest.param(worker_and_flow_killed, "60", marks=pytest.mark.thorough),  # two missed heartbeats
        (files_elsewhere, "300"),
        (server_restarted, "300"),  # a server that is slow to come back has heard none
    ],
)
def test_a_run_goes_on_by_itself_to_the_same_weights(runs, scenario, vanished_after_s):
    assert runs.room.deploy("--retry-after", "1", "--vanished-after", vanished_after_s).returncode == 0

    row = scenario(runs, 1)

    assert row.well, f"{row}\n{runs.room.log()}"
