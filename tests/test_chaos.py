"""The harness itself: twenty kills leave no trace, and a protection that is switched off is noticed."""

import os
import subprocess
import sys

import pytest

from flows import ROOT


def chaos(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "chaos", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.slow
def test_twenty_kills_leave_no_trace():
    done = chaos("--kills", "20", "--flow-share", "0.2", "--pairs", "1", "--flips", "40", "--enumerate-every", "60")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "damaged, stray, lost or different                  0" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("protection", ["file before status", "counter-based randomness"])
def test_a_protection_that_is_switched_off_is_noticed(protection):
    done = chaos("--mutations", "--only", protection)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{protection:<26} red" in done.stdout
