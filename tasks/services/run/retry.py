"""Trying again after a pause: the one way to do it, for whatever may answer later."""

import logging
import time
from collections.abc import Callable, Sequence

from tenacity import RetryCallState, Retrying, retry_if_exception, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_chain, wait_fixed

logger = logging.getLogger(__name__)

Transient = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]
"""Errors that may cure themselves: their classes, or a question about one."""


def retrying(
    pauses_s: Sequence[float],
    on: Transient,
    *,
    pause: Callable[[float], None] = time.sleep,
    warn: bool = True,
) -> Retrying:
    """Call again after each of the pauses (seconds) while the error is transient; the last error is raised as it is.

    Used as `retrying(PAUSES_S, TrackingUnavailable)(function, argument)`. `pause` waits, and may wake early.
    """
    classes = on if isinstance(on, type | tuple) else None
    return Retrying(
        stop=stop_after_attempt(len(pauses_s) + 1),
        wait=wait_chain(*(wait_fixed(seconds) for seconds in pauses_s)) if pauses_s else wait_fixed(0),
        retry=retry_if_exception_type(classes) if classes is not None else retry_if_exception(on),  # type: ignore[arg-type]
        sleep=pause,
        before_sleep=_warn if warn else None,
        reraise=True,
    )


def _warn(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    logger.warning("%s; trying again in %.0f s", error, state.upcoming_sleep)
