"""What our own code in a flow or a task came to, whatever Prefect's engine makes of it when its server is away."""

import logging
import queue
from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol

from prefect._internal.concurrency.services import QueueService
from prefect.client.schemas.objects import State
from prefect.exceptions import Abort, CancelledRun

from ups_models.wording import first_line

logger = logging.getLogger(__name__)


class Coat(Protocol):
    """A flow or a task: what Prefect puts over a function."""

    name: str
    fn: Callable[..., Any]

    def with_options(self) -> Any:
        """A copy."""


class Outcome:
    """Whether the code of a flow or task began, and what it returned or raised itself."""

    def __init__(self) -> None:
        self.began = False
        self.value: Any = None
        self.error: BaseException | None = None

    def of(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, which leaves its outcome here."""

        @wraps(work)
        def recorded(*arguments: Any, **named: Any) -> Any:
            self.began = True
            try:
                self.value = work(*arguments, **named)
            except BaseException as error:
                self.error = error
                raise
            # the engine replaces what a state holds
            if isinstance(self.value, State) and isinstance(self.value.data, Exception):
                self.error = self.value.data
            return self.value

        return recorded

    @property
    def cancelled(self) -> bool:
        """Whether it returned a state that says so, as the engine then says by an exception."""
        return isinstance(self.value, State) and self.value.is_cancelled()

    def result(self) -> Any:
        """What it returned; raises what it raised, or what the state that it returned holds."""
        if self.error is not None:
            raise self.error
        if self.cancelled:
            raise CancelledRun(self.value.message)
        return self.value


class Engine:
    """Prefect's engine for the steps of one run, until it fails for the first time: the rest is done without it."""

    def __init__(self) -> None:
        self.failed = False

    def run(self, coat: Coat, *arguments: Any, plainly: Callable[[], Any] | None = None) -> Any:
        """The result of the code of a flow or task, run by the engine; where that cannot begin it, by itself.

        What the engine raises once the code has begun is not ours: what the code returned or raised counts. A flow
        whose code needs the engine has something else to be done `plainly`.
        """
        outcome = Outcome()
        if not self.failed:
            self._try(coat, arguments, outcome)
        if not outcome.began:
            if plainly is not None:
                return plainly()
            outcome.of(coat.fn)(*arguments)
        return outcome.result()

    def _try(self, coat: Coat, arguments: tuple[Any, ...], outcome: Outcome) -> None:
        try:
            _recorded(coat, outcome)(*arguments)
        except Abort as error:  # the server wants it to end, as when it was called off before it began
            if not outcome.began:
                raise
            self._warn(coat, error, began=True)
        except Exception as error:  # noqa: BLE001 - whatever the engine raises; our own error is what counts
            if error is not outcome.error and not outcome.cancelled:
                self._warn(coat, error, began=outcome.began)

    def _warn(self, coat: Coat, error: BaseException, *, began: bool) -> None:
        self.failed = True
        rest = "its record of this run is not complete" if began else "what is left is done without it"
        logger.warning("Prefect failed in %s (%s: %s); %s", coat.name, type(error).__name__, first_line(error), rest)


def give_up_sending() -> None:
    """Forget the events and log lines that wait for a server that is away: at exit Prefect would try each for long."""
    services: dict[int, Any] = QueueService._instances  # type: ignore[misc]
    for service in tuple(services.values()):
        while True:
            try:
                service._queue.get_nowait()
            except queue.Empty:
                break
            service._queue.task_done()


def _recorded(coat: Coat, outcome: Outcome) -> Callable[..., Any]:
    """A copy of the flow or task whose code leaves its outcome."""
    copy = coat.with_options()
    copy.fn = outcome.of(coat.fn)
    return copy  # type: ignore[no-any-return]
