"""A request to stop, SIGTERM or SIGINT, held as a flag until a step is finished and saved."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


_wakeups: list[int] = []
"""The reading end of what `redeliver_lost_signals` listens to."""
_received: list[signal.Signals] = []


class StopRequest:
    """Whether this process was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = pending_stop_signal()

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
def redeliver_lost_signals() -> Iterator[None]:
    """See to it that SIGTERM and SIGINT take effect, whoever handles them.

    Handlers such as Prefect's raise in the middle of whatever runs. In a finaliser that is swallowed, and in the import
    of a C extension it becomes an ImportError. What Python notes of a signal beside its handler is not lost
    (`signal.set_wakeup_fd`), and the handlers stay as they are: the signal is sent again where a stage or an evaluation
    begins, or where an error leaves.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    _wakeups.append(reader)
    try:
        yield
    except Exception:
        redeliver_pending()
        raise
    finally:
        _wakeups.remove(reader)
        _received.clear()
        signal.set_wakeup_fd(previous)
        os.close(reader)
        os.close(writer)


def pending_stop_signal() -> signal.Signals | None:
    """The last request to stop that has come in a block of `redeliver_lost_signals`."""
    for reader in _wakeups:
        try:
            numbers = os.read(reader, 4096)
        except BlockingIOError:
            continue
        _received.extend(signal.Signals(number) for number in numbers if number in STOP_SIGNALS)
    return _received[-1] if _received else None


def redeliver_pending() -> None:
    """Where it cannot be swallowed: send a signal again that came and had no effect."""
    number = pending_stop_signal()
    if number is not None:
        os.kill(os.getpid(), number)


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
