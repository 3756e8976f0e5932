"""What only a machine or a server that dies can show: missing heartbeats tell, and a server that is back is found."""

import pytest

from chaos.control_room import control_room
from chaos.retries import Runs, server_restarted, worker_and_flow_killed


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A control room whose runs count as crashed after one missed heartbeat."""
    scratch = tmp_path_factory.mktemp("retries")
    home = scratch / "home"
    home.mkdir()
    with control_room(home, within_s=300) as room:
        assert room.deploy("--retry-after", "1", "--vanished-after", "40").returncode == 0
        room.start_worker()
        room.start_watch()
        yield Runs(room, scratch)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [worker_and_flow_killed, server_restarted])
def test_a_run_goes_on_by_itself_to_the_same_weights(runs, scenario):
    row = scenario(runs, 1)

    assert row.well, f"{row}\n{runs.room.log()}"
