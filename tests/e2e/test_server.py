"""`make server`: a Prefect server, a worker and a watch, which all end together."""

import fcntl
import os
import signal
import subprocess
import termios
import time
from contextlib import contextmanager, suppress

import pytest

from flows import ROOT
from harness.ports import free_port
from tasks.services.rental.providers.local import marked_processes

STARTED = " started!"
"""What a worker says."""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["Configure Prefect", STARTED])
def test_ctrl_c_ends_the_server_the_worker_and_the_watch_of_make_server(tmp_path, when):
    keyboard, terminal = os.openpty()

    with make_server(tmp_path, stdin=terminal, preexec_fn=_take_terminal) as (script, said):
        until(when, said)
        os.write(keyboard, b"\x03")
        script.wait(120)

        assert when in said.read_text()
        assert marked_processes(f"PREFECT_HOME={tmp_path}") == []
    os.close(keyboard)
    os.close(terminal)


@pytest.mark.slow
def test_sigterm_ends_them_even_where_a_script_started_them_in_the_background(tmp_path):
    with make_server(tmp_path, stdin=subprocess.DEVNULL, preexec_fn=_ignore_sigint) as (script, said):
        until(STARTED, said)
        script.terminate()
        script.wait(120)

        assert STARTED in said.read_text()
        assert marked_processes(f"PREFECT_HOME={tmp_path}") == []


@contextmanager
def make_server(home, **options):
    """`make server` on a port of its own, in a session of its own; the process, and the file of what it says."""
    environment = {**os.environ, "PORT": str(free_port()), "PREFECT_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = ["make", "-C", str(ROOT), "--old-file", ".venv/.stamp-installed", "server"]
    said = home / "said"
    with said.open("wb") as log:
        script = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True, **options
        )  # fmt: skip
    try:
        yield script, said
    finally:
        for process in marked_processes(f"PREFECT_HOME={home}"):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        script.wait()


def until(words, said):
    """Wait for the words, for some minutes at most."""
    deadline = time.monotonic() + 300
    while words not in said.read_text() and time.monotonic() < deadline:
        time.sleep(0.2)


def _take_terminal():
    """Make standard input the terminal of this session, whose Ctrl-C is a signal."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _ignore_sigint():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
