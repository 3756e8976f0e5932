"""Cancel and Suspend against a real server and worker: the harness that does it in ten phases, in its short form."""

import os
import subprocess
import sys

import pytest

from flows import ROOT
from harness import PYTHONPATH


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.timeout(1800)
def test_what_a_person_cancels_stops_and_what_a_person_suspends_waits():
    command = [sys.executable, "-m", "harness.trust.cancels", "--cancels", "2", "--suspends", "1"]

    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "cancels: 2 of 2" in done.stdout
    assert "suspends: 1 of 1" in done.stdout
