"""A request to stop, SIGTERM or SIGINT, held as a flag until a step is finished and saved."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Whether this process was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __call__(self) -> bool:
        """True once a signal has arrived."""
        return self.signal is not None

    def deliver(self) -> None:
        """Hand the signal to whoever handled it before us, now that everything is saved.

        Prefect's own handler then raises its TerminationSignal, and the run is recorded as crashed, not as completed.
        """
        if self.signal is not None:
            os.kill(os.getpid(), self.signal)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Hold SIGTERM and SIGINT as a flag within the block; a second signal goes straight to the old handler.

    Outside the main thread Python delivers no signal: the flag then stays down and only periodic saves help.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def handle(number: int, _frame: FrameType | None) -> None:
        request.signal = signal.Signals(number)
        for other, handler in previous.items():
            signal.signal(other, handler)

    for number in STOP_SIGNALS:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
