"""Solving on several cores: the same rows as on one, in order, and no process that is left behind."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from flows import ROOT
from ups_models.data.rows import Order, solved_rows

MUCH_S = 1e6
"""So long it would take: worth more processes than one."""
ORDER = Order("kdv1d", {"nu": 1.717e-9}, 32, 32, [0.0, 1.0, 2.0], seed=3)
FOREVER = """
from ups_models.data.rows import Order, solved_rows

if __name__ == "__main__":
    order = Order("kdv1d", {"nu": 1.717e-9}, 64, 64, [0.0, 1e6], seed=0)
    for _ in solved_rows(order, 64, seconds=1e6, on_progress=lambda done: print(done, flush=True)):
        pass
"""


def test_rows_are_the_same_on_one_core_and_on_all():
    seen: list[int] = []

    pieces = list(solved_rows(ORDER, 20, seconds=MUCH_S, on_progress=seen.append))

    alone = ORDER.solve(0, 20)
    assert [start for start, _ in pieces] == [0, 8, 16]
    assert np.allclose(np.concatenate([piece for _, piece in pieces]), alone, atol=1e-6)
    assert seen[-1] == 20
    assert seen == sorted(seen)


def test_what_progress_raises_ends_the_work():
    def stop(_done):
        raise KeyboardInterrupt

    before = children_of(os.getpid())
    with pytest.raises(KeyboardInterrupt):
        list(solved_rows(ORDER, 40, seconds=MUCH_S, on_progress=stop))

    assert [pid for pid in children_of(os.getpid()) if pid not in before] == []


def test_whoever_is_killed_takes_its_workers_along(tmp_path):
    script = tmp_path / "forever.py"
    script.write_text(FOREVER, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # it waits for its workers
    workers = children_of(process.pid)

    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    assert workers
    deadline = time.monotonic() + 120  # a worker that still imports hears of it later
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [pid for pid in workers if is_alive(pid)] == []


def children_of(pid: int, *, but: str = "resource_tracker") -> list[int]:
    found = subprocess.run(["pgrep", "-a", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(line.split()[0]) for line in found.stdout.splitlines() if but not in line]


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
