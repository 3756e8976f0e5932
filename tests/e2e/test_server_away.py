"""A run under a worker does not need its server while it trains."""

import pytest

from harness.trust.away import away


@pytest.mark.slow
def test_a_run_under_a_worker_trains_on_while_its_server_is_away():
    assert away(20.0) == 0
