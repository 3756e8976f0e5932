"""How a command runs a Prefect flow: on which server, what a signal does, how an error is reported."""

import logging
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from ups_models.errors import Preempted, UPSError

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


def run_flow(load: Callable[[], Any], request: Any, *, stopped: str) -> str:
    """Load a flow and run it, on Prefect's temporary server unless one is configured; its result as text.

    Raises Preempted with the message `stopped` when a signal ended it, UPSError for any other failure.
    """
    from flows.prefect.server import quiet_prefect, temporary_server

    if caveat := platform_caveat(sys.platform):
        logger.warning("%s", caveat)
    quiet_prefect()
    with temporary_server():
        flow = load()
        return _run(flow, request, stopped)


def _run(flow: Callable[[Any], Any], request: Any, stopped: str) -> str:
    from prefect.exceptions import CancelledRun, Pause, TerminationSignal

    signal.signal(signal.SIGTERM, _raise_preempted)
    try:
        return str(flow(request))
    except (TerminationSignal, KeyboardInterrupt, SystemExit):
        raise Preempted(stopped) from None
    except (CancelledRun, Pause):
        raise Preempted(CANCELLED) from None
    except UPSError:
        raise
    except Exception as error:
        logger.debug("the run failed", exc_info=True)
        detail = (str(error).splitlines() or [""])[0]
        raise UPSError(f"{type(error).__name__}: {detail}; set UPS_LOG=debug for the traceback") from error


def _raise_preempted(_number: int, _frame: FrameType | None) -> NoReturn:
    """Prefect handles the signal while the flow runs, then passes it on to us, once the flow run's end is recorded."""
    raise SystemExit(Preempted.exit_code)
