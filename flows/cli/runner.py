"""How a command runs a Prefect flow: on which server, what a signal does, how an error is reported."""

import logging
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Any, NoReturn

from ups_models.errors import BadInput, Preempted, UPSError
from ups_models.wording import first_line

logger = logging.getLogger(__name__)

STOPPED = "stopped by a signal; run the same command with --auto-resume to resume"
CANCELLED = "stopped on the Prefect server, and saved; run the same command with --auto-resume to resume"
STOPPED_EARLY = {"train": STOPPED, "launch": "stopped by a signal before a machine was rented"}
"""By command: what is said when SIGTERM arrives before the flow runs."""


def platform_caveat(platform: str) -> str:
    """What is not promised on a system that is not Linux, in one line; empty on Linux."""
    if platform == "linux":
        return ""
    return (
        f"{platform} is not Linux: the file locks that keep two processes out of one run are only advisory here, and "
        "child processes of a run that is killed may outlive it"
    )


def run_flow(
    load: Callable[[], Any],
    request: Any,
    *,
    plainly: Callable[[Any], str],
    stopped: str,
    require_server: bool = False,
    idle: bool = False,
) -> str:
    """Load a flow and run it, on Prefect's temporary server unless one is configured; its result as text.

    Where no server can record it, `plainly` does the same without Prefect, unless `require_server` forbids that; and
    where it is `idle`, so that a temporary server would record that there was nothing to do.
    Raises Preempted with the message `stopped` when a signal ended it, UPSError for any other failure.
    """
    from flows.prefect.home import NoServer, named_server
    from flows.prefect.server import quiet_prefect, server_of_run

    if caveat := platform_caveat(sys.platform):
        logger.warning("%s", caveat)
    if idle and named_server().url is None:
        return _run(lambda: plainly(request), stopped)
    quiet_prefect()
    logging.raiseExceptions = False  # log lines that a server does not take are no news
    with ExitStack() as stack:
        try:
            stack.enter_context(server_of_run())
            flow = _answered(load)
        except NoServer as fault:
            if require_server:
                raise BadInput(f"{fault}; nothing was done, because of --require-server") from None
            logger.warning("%s; this run goes on without Prefect's record", fault)
            return _run(lambda: plainly(request), stopped)
        from flows.prefect.outcome import Engine, give_up_sending

        engine = Engine()
        try:
            return _run(lambda: engine.run(flow, request, plainly=lambda: plainly(request)), stopped)
        finally:
            if engine.failed:
                give_up_sending()


def _answered(load: Callable[[], Any]) -> Any:
    """The flow, once the configured server has answered. Raises NoServer, also where Prefect itself cannot start."""
    from flows.prefect.home import NoServer
    from flows.prefect.server import is_temporary

    try:
        flow = load()
    except (ImportError, OSError, RuntimeError, ValueError) as error:  # its settings, its plugins, no home directory
        raise NoServer(f"Prefect cannot be used here ({type(error).__name__}: {first_line(error)})") from error
    if not is_temporary():
        from flows.prefect.client import require_answer

        require_answer()
    return flow


def _run(work: Callable[[], Any], stopped: str) -> str:
    signal.signal(signal.SIGTERM, _raise_preempted)
    try:
        return str(work())
    except (KeyboardInterrupt, SystemExit):
        raise Preempted(stopped) from None
    except UPSError:
        raise
    except BaseException as error:
        if (preempted := _stopped_by_prefect(error, stopped)) is not None:
            raise preempted from None
        if not isinstance(error, Exception):
            raise
        logger.debug("the run failed", exc_info=True)
        detail = (str(error).splitlines() or [""])[0]
        raise UPSError(f"{type(error).__name__}: {detail}; set UPS_LOG=debug for the traceback") from error


def _stopped_by_prefect(error: BaseException, stopped: str) -> Preempted | None:
    """What a person or a signal wants, where Prefect raises it in its own words; it may not have been imported."""
    if "prefect.exceptions" not in sys.modules:
        return None
    from prefect.exceptions import CancelledRun, Pause, TerminationSignal

    if isinstance(error, TerminationSignal):
        return Preempted(stopped)
    return Preempted(CANCELLED) if isinstance(error, CancelledRun | Pause) else None


def _raise_preempted(_number: int, _frame: FrameType | None) -> NoReturn:
    """Prefect handles the signal while the flow runs, then passes it on to us, once the flow run's end is recorded."""
    raise SystemExit(Preempted.exit_code)
