"""A temporary Prefect server for a run without PREFECT_API_URL: started early, quiet, ended with its parent."""

import atexit
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from flows import PACKAGES, ROOT
from flows.prefect.blank import copy_blank
from flows.prefect.home import NoServer, PrivateHome, named_server
from tasks.services.run import environment
from ups_models.children import end_with_parent
from ups_models.wording import first_line

logger = logging.getLogger(__name__)

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the API and the UI still get every line
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # events that a server does not take
    "PREFECT_LOGGING_EXTRA_LOGGERS": ",".join(PACKAGES),
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_PLUGINS_ENABLED": "false",  # ours is for Prefect's command line, and fails in a running event loop
}
RETRIES = {"PREFECT_CLIENT_MAX_RETRIES": "2"}
"""A server that is away costs a request 6 seconds, not Prefect's 62."""
UNSEEN = {"PREFECT_LOGGING_TO_API_ENABLED": "false"}
"""Nobody can read what a temporary server was sent."""
SERVER = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",  # nothing of ours lies in a block
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "500",  # with 1, a flush is cut off at shutdown
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}
STOP_WITHIN_S = 10
TEMPORARY = "UPS_TEMPORARY_SERVER"


def quiet_prefect(more: Mapping[str, str] = RETRIES) -> None:
    """Set our defaults for Prefect's settings, before it is imported; what the user has set stays."""
    for name, value in {**QUIET, **more}.items():
        environment.put(name, value, replace=False)


def is_temporary() -> bool:
    """Whether the server of this process is a temporary one, which nobody sees."""
    return environment.is_set(TEMPORARY)


@contextmanager
def server_of_run() -> Iterator[None]:
    """The server that the user names, or else a temporary one with a home and a database of its own, until the end.

    Raises NoServer where this machine lets no temporary one start.
    """
    named = named_server()
    if named.url is None:
        if named.fault:
            logger.warning("%s; a temporary Prefect server is used", named.fault)
        with temporary_server():
            yield
        return
    with ExitStack() as stack:
        if named.fault:
            logger.warning("%s; %s is used without it", named.fault, named.shown)
            home = _home()
            atexit.register(home.remove)
            stack.enter_context(home.used(keys=True))
        environment.put("PREFECT_API_URL", named.url)
        yield


@contextmanager
def temporary_server() -> Iterator[None]:
    """Serve Prefect's API on loopback until the block ends. Raises NoServer.

    The child starts on a socket that already listens, so that the parent can import Prefect meanwhile: requests wait
    in the socket's queue, and nothing polls. It has a session of its own, so that Ctrl-C reaches the run alone, and
    the kernel ends it when the run is killed. Home and database are private. See docs/adr/0003.
    """
    with _listener() as listener:
        home = _home()
        with home.used(keys=False):
            child = _start(listener, home)
            environment.put("PREFECT_API_URL", f"http://127.0.0.1:{listener.getsockname()[1]}/api")
            environment.put(TEMPORARY, "1")
            for name, value in UNSEEN.items():
                environment.put(name, value, replace=False)
            atexit.register(_stop, child, home)
            listener.close()
            try:
                yield
            finally:
                environment.drop("PREFECT_API_URL", TEMPORARY)


def _listener() -> socket.socket:
    try:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
    except OSError as error:
        raise NoServer(f"127.0.0.1: no temporary Prefect server can listen ({first_line(error)})") from None
    return listener


def _home() -> PrivateHome:
    try:
        return PrivateHome()
    except OSError as error:
        raise NoServer(f"no temporary folder can be made for Prefect ({first_line(error)}); set TMPDIR") from None


def _start(listener: socket.socket, home: PrivateHome) -> subprocess.Popen[bytes]:
    number = str(listener.fileno())
    factory = ("--factory", "flows.prefect.blank:create_app", "--lifespan", "on", "--log-level", "error")
    copy_blank(home.path)
    with (home.path / "server.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "uvicorn", *factory, "--app-dir", str(ROOT), "--fd", number],
            pass_fds=[listener.fileno()],
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509 - no threads run yet
            env={**SERVER, **environment.child()},
            stdout=subprocess.DEVNULL,
            stderr=log,
        )


def _stop(child: subprocess.Popen[bytes], home: PrivateHome) -> None:
    child.terminate()
    try:
        child.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    home.remove()
