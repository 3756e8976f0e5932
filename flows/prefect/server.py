"""A temporary Prefect server for a run without PREFECT_API_URL: started early, quiet, ended with its parent."""

import atexit
import ctypes
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager

from flows import PACKAGES
from tasks.services.run import environment

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the API and the UI still get every line
    "PREFECT_LOGGING_EXTRA_LOGGERS": ",".join(PACKAGES),
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_PLUGINS_ENABLED": "false",  # ours is for Prefect's command line, and fails in a running event loop
}
SERVER = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "500",  # with 1, a flush is cut off at shutdown
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}
STOP_WITHIN_S = 10
TEMPORARY = "UPS_TEMPORARY_SERVER"
PR_SET_PDEATHSIG = 1


def quiet_prefect() -> None:
    """Set our defaults for Prefect's settings, before it is imported; what the user has set stays."""
    for name, value in QUIET.items():
        environment.put(name, value, replace=False)


def has_server() -> bool:
    """Whether the user's environment or active Prefect profile names a server."""
    if environment.is_set("PREFECT_API_URL"):
        return True
    profiles_path = environment.path("PREFECT_HOME", "~/.prefect") / "profiles.toml"
    if not profiles_path.is_file():
        return False
    profiles = tomllib.loads(profiles_path.read_text("utf-8"))
    active = environment.get("PREFECT_PROFILE") or profiles.get("active")
    return "PREFECT_API_URL" in profiles.get("profiles", {}).get(active, {})


def is_temporary() -> bool:
    """Whether the server of this process is a temporary one, which nobody sees."""
    return environment.is_set(TEMPORARY)


@contextmanager
def temporary_server() -> Iterator[None]:
    """Serve Prefect's API on loopback until the block ends, unless a server is configured.

    The child starts on a socket that already listens, so that the parent can import Prefect meanwhile: requests wait
    in the socket's queue, and nothing polls. It has a session of its own, so that Ctrl-C reaches the run alone, and
    the kernel ends it when the run is killed. See docs/adr/0003.
    """
    if has_server():
        yield
        return
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        child = _start(listener)
        environment.put("PREFECT_API_URL", f"http://127.0.0.1:{listener.getsockname()[1]}/api")
        environment.put(TEMPORARY, "1")
    atexit.register(_stop, child)
    try:
        yield
    finally:
        environment.drop("PREFECT_API_URL", TEMPORARY)


def _start(listener: socket.socket) -> subprocess.Popen[bytes]:
    number = str(listener.fileno())
    factory = ("--factory", "prefect.server.api.server:create_app", "--lifespan", "on", "--log-level", "error")
    return subprocess.Popen(
        [sys.executable, "-m", "uvicorn", *factory, "--fd", number],
        pass_fds=[listener.fileno()],
        start_new_session=True,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - no threads run yet
        env={**SERVER, **environment.child()},
        stdout=subprocess.DEVNULL,
    )


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
