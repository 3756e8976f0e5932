"""Requests to stop: which signals they are, what they do before there is work to save, and that none is lost."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, Protocol

from ups_models.errors import Preempted

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
BATCH_SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)
"""What a lost terminal and batch systems send; by default they end a process where it stands."""

_wakeups: list[int] = []
"""The reading end of what `redeliver_lost_signals` listens to."""
_received: list[signal.Signals] = []
_terminals = [descriptor for descriptor in (0, 1, 2) if os.isatty(descriptor)]
"""Standard input, output and error, as far as this process was started with a terminal there."""


class Question(Protocol):
    """Whether somebody else has a wish that the work should stop."""

    def __call__(self, *, saved: bool) -> bool:
        """Asked after each step, where no time may be spent, and where the state was `saved`."""


class StopRequest:
    """Whether this process was asked to stop, and by which signal."""

    def __init__(self, question: Question | None = None) -> None:
        self.question = question
        self.signal: signal.Signals | None = pending_stop_signal()
        self.asked = self.signal is not None

    def __call__(self) -> bool:
        """True once somebody has asked."""
        if not self.asked and self.question is not None and self.question(saved=False):
            self.ask()
        return self.asked

    def ask(self, number: signal.Signals | None = None) -> None:
        """Ask, by a signal or without one."""
        self.signal, self.asked = number or self.signal, True

    def look(self) -> None:
        """Where the work is saved: ask whoever else may have a wish."""
        if not self.asked and self.question is not None and self.question(saved=True):
            self.ask()

    def deliver(self) -> None:
        """Hand the signal to whoever handled it before us, now that everything is saved."""
        if self.signal is not None:
            os.kill(os.getpid(), self.signal)


class EndAtOnce:
    """A signal handler that ends this process, with one line on stderr."""

    def __init__(self, message: str) -> None:
        self.message = f"ups: {message}\n".encode()

    def __call__(self, _number: int, _frame: FrameType | None) -> NoReturn:
        """Without an exception, which would be raised in whatever runs."""
        os.write(2, self.message)
        os._exit(Preempted.exit_code)


def end_at_once_on_sigterm(message: str) -> None:
    """Let SIGTERM end this process at once, for as long as there is nothing to save.

    An exception would be raised in whatever code is running, such as imports, and some turns it into another error.
    """
    signal.signal(signal.SIGTERM, EndAtOnce(message))


@contextmanager
def batch_signals_as_sigterm() -> Iterator[None]:
    """Within the block, let SIGHUP, SIGUSR1 and SIGXCPU do what SIGTERM does, unless they are ignored or handled."""
    changed = treat_batch_signals_as_sigterm()
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def treat_batch_signals_as_sigterm() -> list[signal.Signals]:
    """The same for the rest of the process; the signals that this changed."""
    if threading.current_thread() is not threading.main_thread():
        return []
    changed = [number for number in BATCH_SIGNALS if signal.getsignal(number) == signal.SIG_DFL]
    for number in changed:
        signal.signal(number, _terminate)
    return changed


def _terminate(number: int, _frame: FrameType | None) -> None:
    if number == signal.SIGHUP:
        _forget_lost_terminals()
    if number == signal.SIGXCPU:  # the kernel sends it every second
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    signal.raise_signal(signal.SIGTERM)


def _forget_lost_terminals() -> None:
    """Nobody sees them any more, and whatever is written to one is an error: from now on it goes nowhere."""
    lost = [descriptor for descriptor in _terminals if not os.isatty(descriptor)]
    if lost:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in lost:
            os.dup2(nowhere, descriptor)
        os.close(nowhere)


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
def note_unhandled(request: StopRequest) -> Iterator[None]:
    """Within the block, note SIGTERM and SIGINT in the request where nothing but the end of the process answers them.

    A handler that raises stays: Prefect acknowledges a cancellation only where its own is in place. A second signal
    goes straight to what was there before.
    """
    found = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    previous = {number: handler for number, handler in found.items() if _raises_nothing(handler)}

    def handle(number: int, _frame: FrameType | None) -> None:
        request.ask(signal.Signals(number))
        for other, handler in previous.items():
            signal.signal(other, handler)

    for number in previous:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _raises_nothing(handler: object) -> bool:
    return isinstance(handler, EndAtOnce) or handler in (signal.SIG_DFL, signal.SIG_IGN)
