"""What a person wishes of this flow run and its chain, as the server knows it: to cancel it, or to suspend it."""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.exceptions import Pause
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled, Scheduled

from flows.prefect.earlier import UNREACHABLE, Elsewhere, runs_of_chain
from flows.prefect.server import is_temporary
from tasks.services.run.attempts import ChainRun
from tasks.services.run.uninterrupted import also_asking
from ups_models.errors import Preempted, UPSError

logger = logging.getLogger(__name__)

PROCESS_ENDED = "ups.flow-run.process-ended"
"""An event: the process of a run that goes on later is gone, and sends no more heartbeats."""
CANCELLED = ("Cancelled", "Cancelling")
"""Names of the states in which a person's cancellation puts a run; those of ours have names of their own."""
ANSWER_WITHIN_S, ASK_EVERY_S, ASK_AGAIN_AFTER_S = 3.0, 1.0, 30.0
NEWEST_OF_CHAIN = 5
LOOK_AGAIN_AFTER = timedelta(minutes=2)


class Unwanted(UPSError):
    """A person cancelled this run, or the one that it follows."""


def refusal(attempt: ChainRun | None) -> str | None:
    """Why this run must not begin its work, in words; None where nobody is against it, or the server cannot be asked.

    A cancelled run begins all the same where it was cancelled while a process was made for it, and an automation
    answers one that died of its cancellation. A person's later wish to run it again counts more.
    """
    if attempt is None:
        return None
    try:
        with get_client(sync_client=True) as client:
            own = client.read_flow_run_states(UUID(attempt.run_id))
            if is_cancelled(own):
                return "cancelled before it began"
            if not attempt.follows_another or restarted_at(own) is not None:
                return None
            return _cancelled_before(client, attempt)
    except UNREACHABLE as error:
        logger.warning("the server does not say whether this run is cancelled (%s): it begins", type(error).__name__)
        return None


def end_if_cancelling() -> None:
    """Call a run cancelled that is being cancelled before it began.

    Its process then gets no answer but that, and neither the worker nor the server would end it within five minutes.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.deployment_id is None:
        return
    try:
        with get_client(sync_client=True) as client:
            run = client.read_flow_run(context.flow_run.id)
            if run.state_type == StateType.CANCELLING:
                client.set_flow_run_state(run.id, Cancelled(message="cancelled before it began"), force=True)
    except UNREACHABLE as error:
        logger.warning("the server does not say whether this run is cancelled (%s)", type(error).__name__)


@contextmanager
def obeyed() -> Iterator[None]:
    """Within the block, look at the run's state where its work is saved, and stop when a person wishes so.

    Raises Unwanted for a cancelled run. A suspended one ends as it is, and Resume begins it again.
    """
    if flow_run.id is None or is_temporary():  # nobody can have a wish
        yield
        return
    with StateWatch(UUID(str(flow_run.id)), flow_run.run_count or 1) as watch, also_asking(watch):
        try:
            yield
        except Preempted as error:
            if watch.state is None:
                raise
            if watch.state.type in (StateType.CANCELLING, StateType.CANCELLED):
                raise Unwanted(f"cancelled; {error}") from error
            announce_end(watch.run_id)
            raise Pause(str(error), state=watch.state) from error


def look_again_later(error: Elsewhere) -> NoReturn:
    """End this process, and have a worker begin the run again in a while, which may be on the right machine."""
    run_id = UUID(str(flow_run.id))
    state: State[Any] = Scheduled(scheduled_time=datetime.now(UTC) + LOOK_AGAIN_AFTER)
    state = state.model_copy(update={"name": "AwaitingFiles", "message": str(error)})
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, state, force=True)
    announce_end(run_id)
    raise Pause(str(error), state=state)


def announce_end(run_id: UUID) -> None:
    """Tell the automation that listens to heartbeats that this process sends no more; the run's state says nothing."""
    emit_event(
        PROCESS_ENDED,
        resource={"prefect.resource.id": f"prefect.flow-run.{run_id}"},
        related=[{"prefect.resource.id": f"prefect.deployment.{deployment.id}", "prefect.resource.role": "deployment"}],
    )


class StateWatch:
    """Asks the server for the run's state, as often as is reasonable and in bounded time."""

    def __init__(self, run_id: UUID, run_count: int) -> None:
        self.run_id, self.run_count = run_id, run_count
        context = FlowRunContext.get()
        self.heard = context.flow_run_suspension_request if context is not None else None
        self.state: State | None = None
        self.ask_at = 0.0
        self.client: SyncPrefectClient | None = None

    def __enter__(self) -> "StateWatch":
        self.client = get_client(sync_client=True, httpx_settings={"timeout": ANSWER_WITHIN_S})
        self.client.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self.client is not None:
            self.client.__exit__(None, None, None)

    def __call__(self, *, saved: bool) -> bool:
        """Whether the process should stop: the run is cancelled, suspended, or in the hands of a later process.

        Prefect listens for a suspension while a deployment's run works, and that costs nothing to look at; the server
        itself is asked where the state was `saved`.
        """
        if self.state is None and self.heard is not None:
            self.state = self.heard.get_state()
        if saved and self.state is None and self.client is not None and time.monotonic() >= self.ask_at:
            try:
                with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
                    run = self.client.read_flow_run(self.run_id)
                self.ask_at = time.monotonic() + ASK_EVERY_S
                self.state = run.state if is_to_stop(run, self.run_count) else None
            except UNREACHABLE as error:
                logger.debug("the run's state is not known: %s", type(error).__name__)
                self.ask_at = time.monotonic() + ASK_AGAIN_AFTER_S
        return self.state is not None


def is_to_stop(run: FlowRun, run_count: int) -> bool:
    """Whether the run's state says that the process which began it as its `run_count`-th should stop."""
    kinds = (StateType.CANCELLING, StateType.CANCELLED, StateType.PAUSED)
    return run.state is not None and (run.state.type in kinds or run.run_count > run_count)


def is_cancelled(states: Iterable[State[Any]]) -> bool:
    """Whether a person has cancelled the run since it was scheduled last."""
    cancelled = False
    for state in _sorted(states):
        cancelled = state.type != StateType.SCHEDULED and (cancelled or state.name in CANCELLED)
    return cancelled


def restarted_at(states: Iterable[State[Any]]) -> datetime | None:
    """When a run that had ended was last scheduled again, as a person does it."""
    found, ended = None, False
    for state in _sorted(states):
        if state.type == StateType.SCHEDULED and ended:
            found = state.timestamp
        ended = ended or state.is_final()
    return found


def _cancelled_before(client: SyncPrefectClient, attempt: ChainRun) -> str | None:
    """Whether the last wish for the chain of this attempt was to cancel it, in words."""
    acts: list[tuple[datetime, str | None]] = []
    for run in runs_of_chain(client, attempt)[:NEWEST_OF_CHAIN]:
        states = client.read_flow_run_states(run.id)
        acts += [(state.timestamp, run.name) for state in states if state.name in CANCELLED]
        if (restarted := restarted_at(states)) is not None:
            acts.append((restarted, None))
    name = max(acts, default=(None, None), key=lambda act: act[0])[1]
    return f"the run before it, {name}, was cancelled; start it again by hand to go on" if name else None


def _sorted(states: Iterable[State[Any]]) -> list[State[Any]]:
    return sorted(states, key=lambda state: state.timestamp)
