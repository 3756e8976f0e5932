"""Work that no signal interrupts: it runs in a thread, while the main thread hears what the signals raise."""

import contextvars
import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from tasks.services.run.signals import Question, StopRequest, note_unhandled
from ups_models.errors import Preempted

Result = TypeVar("Result")

ABANDON_WITHIN_S = 3.0
LOOK_EVERY_S = 0.2
_requests: contextvars.ContextVar[StopRequest | None] = contextvars.ContextVar("ups_stop_request", default=None)

_question: contextvars.ContextVar[Question | None] = contextvars.ContextVar("ups_question", default=None)


class Abandoned(BaseException):
    """Raised in the work where a second signal leaves no time to finish the step."""


def uninterrupted(work: Callable[[StopRequest], Result]) -> Result:
    """Do the work in a thread and return what it returns, or raise what it raises.

    What a signal's handler raises meanwhile asks the work to stop, is held until the work has ended, and then raised
    again; a second one abandons the work. Within such work, and outside the main thread, where Python delivers no
    signal, the work is done here. Raises Preempted where nobody handles the signal that stopped it.
    """
    if threading.current_thread() is not threading.main_thread():
        request = _requests.get()
        return work(StopRequest() if request is None else request)
    request = StopRequest(_question.get())
    job = _Job(work, request)
    with note_unhandled(request):
        raised = job.run()
    if raised is not None:
        raise raised from job.error
    request.deliver()
    return job.result()


@contextmanager
def also_asking(question: Question) -> Iterator[None]:
    """Within the block, work also asks this where it has saved its state: whether it should stop."""
    token = _question.set(question)
    try:
        yield
    finally:
        _question.reset(token)


def leave_if_stopped(what: str) -> None:
    """Where nothing is lost but time: raise Preempted if the work that this belongs to was asked to stop."""
    request = _requests.get()
    if request is not None and request():
        raise Preempted(f"{what}: stopped before its end; the same command with --auto-resume begins it again")


def pause_unless_stopped(seconds: float, what: str) -> None:
    """Wait so long. Raises Preempted as `leave_if_stopped` does."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        leave_if_stopped(what)
        time.sleep(min(left, LOOK_EVERY_S))


class _Job(Generic[Result]):
    """The work, its thread, and how it ended."""

    def __init__(self, work: Callable[[StopRequest], Result], request: StopRequest) -> None:
        self.work, self.request = work, request
        self.value: Result | None = None
        self.error: BaseException | None = None
        self.finished = self.called_off = False
        self.begins, self.ended = threading.Lock(), threading.Lock()
        self.ended.acquire()
        context = contextvars.copy_context()
        self.thread = threading.Thread(target=context.run, args=(self._do,), name="work", daemon=True)

    def run(self) -> BaseException | None:
        """Do it to its end; what a signal raised meanwhile. Raises what a second one does.

        Python raises between any two bytecodes. The locks are plain ones, taken in C: an `Event` that is interrupted
        may stay locked for ever. Whoever takes `begins` first decides whether there is any work to wait for.
        """
        raised: BaseException | None = None
        try:
            while not self.finished:
                try:
                    self._wait(start=raised is None)
                except BaseException as error:
                    if raised is not None or self._is_called_off():
                        raise
                    raised = error
                    self.request.ask()
        except BaseException:
            if not self.finished and not self._is_called_off():
                self._abandon()
            raise
        return raised

    def _wait(self, *, start: bool) -> None:
        if start and self.thread.ident is None:
            self.thread.start()
        self.ended.acquire()

    def _is_called_off(self) -> bool:
        """Whether the work has not begun, and never will."""
        self.called_off = self.called_off or self.begins.acquire(blocking=False)
        return self.called_off

    def result(self) -> Result:
        """What the work returned. Raises what it raised."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]

    def _do(self) -> None:
        """In the thread."""
        _requests.set(self.request)
        try:
            if self.begins.acquire(blocking=False):
                self.value = self.work(self.request)
        except BaseException as error:  # noqa: BLE001 - raised in the main thread
            self.error = error
        finally:
            self.finished = True
            self.ended.release()

    def _abandon(self) -> None:
        """Raise in the thread, and end the process if that does not end it: nobody else may get the run before."""
        if self.thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread.ident), ctypes.py_object(Abandoned))
        if not self.ended.acquire(timeout=ABANDON_WITHIN_S):
            os._exit(Preempted.exit_code)
