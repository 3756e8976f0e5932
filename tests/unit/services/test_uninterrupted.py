"""Work in a thread: what a signal raises in the main thread reaches it as a request, and is raised at its end."""

import contextvars
import os
import signal
import threading
import time

import pytest
import torch

from tasks.services.run.paths import RunDir
from tasks.services.run.signals import redeliver_lost_signals, redeliver_pending
from tasks.services.run.status import read_status
from tasks.services.run.uninterrupted import leave_if_stopped, pause_unless_stopped, uninterrupted
from tasks.services.stages import training
from ups_models.errors import Preempted, TrainingDiverged


class Raised(BaseException):
    """What the handler of a framework raises."""


@pytest.fixture(autouse=True)
def framework():
    """A handler that raises, as Prefect's does; it stays what it is while the work is done."""

    def handle(number, frame):
        raise Raised

    previous = signal.signal(signal.SIGTERM, handle)
    yield handle
    signal.signal(signal.SIGTERM, previous)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def wait_for(stop):
    deadline = time.monotonic() + 10
    while not stop() and time.monotonic() < deadline:
        time.sleep(0.001)


def test_what_the_work_returns_is_returned():
    assert uninterrupted(lambda stop: (stop(), 7)) == (False, 7)


def test_what_the_work_raises_is_raised():
    def diverge(stop):
        raise TrainingDiverged("the loss is nan")

    with pytest.raises(TrainingDiverged, match="nan"):
        uninterrupted(diverge)


def test_what_a_handler_raises_waits_for_the_end_of_the_work():
    ends = []

    def work(stop):
        terminate()
        wait_for(stop)
        ends.append(stop())

    with pytest.raises(Raised):
        uninterrupted(work)

    assert ends == [True]


def test_the_handler_of_the_framework_stays_in_place(framework):
    """Prefect acknowledges a cancellation only then."""
    assert uninterrupted(lambda stop: signal.getsignal(signal.SIGTERM)) is framework


def test_ctrl_c_is_held_as_well():
    ends = []

    def work(stop):
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(stop)
        ends.append(stop())

    with pytest.raises(KeyboardInterrupt):
        uninterrupted(work)

    assert ends == [True]


def test_a_second_signal_abandons_the_work_and_is_raised_at_once():
    ends = []

    def work(stop):
        terminate()
        wait_for(stop)
        try:
            terminate()
            for _ in range(10_000):
                time.sleep(0.001)
        except BaseException as error:
            ends.append(type(error).__name__)
            raise

    started = time.monotonic()
    with pytest.raises(Raised):
        uninterrupted(work)

    assert ends == ["Abandoned"]
    assert time.monotonic() - started < 5


def test_work_in_work_shares_the_request():
    def outer(stop):
        return uninterrupted(lambda inner: inner is stop)

    assert uninterrupted(outer)


def test_the_context_of_the_caller_is_that_of_the_work():
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("of the flow run")

    assert uninterrupted(lambda stop: variable.get()) == "of the flow run"


def test_work_that_can_be_left_is_left_and_not_otherwise():
    leave_if_stopped("nobody asked")

    def work(stop):
        leave_if_stopped("not yet")
        stop.ask()
        pause_unless_stopped(60, "data")

    with pytest.raises(Preempted, match="data"):
        uninterrupted(work)


def test_the_work_has_the_threads_and_the_precision_of_the_process():
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    try:
        found = uninterrupted(
            lambda stop: (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled())
        )
    finally:
        torch.set_num_threads(threads)

    assert found == (1, dtype, True)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_at_any_moment_is_raised_and_leaves_no_thread_behind():
    """At the start of the thread, in the work and at its end, from another thread, as signals come."""
    for number in range(150):
        running: list[bool] = []

        def work(stop, running=running):
            running.append(True)
            time.sleep(0.0005)
            running.pop()

        timer = threading.Timer(number * 1e-5, terminate)
        raised = False
        try:
            with redeliver_lost_signals():  # as runs do: a finaliser may swallow what is raised
                timer.start()
                uninterrupted(work)
                timer.join()
                redeliver_pending()
        except Raised:
            raised = True
        timer.join()
        assert raised
        assert running == []


@pytest.mark.parametrize("delay_s", [0.0, 0.003, 0.01, 0.02, 0.04, 0.08, 0.15])
def test_interrupted_at_any_moment_a_stage_ends_with_the_same_bits(tmp_path, smoke, own, delay_s):
    straight = own(RunDir.of(tmp_path / "straight", smoke.checkpoint.dir))
    training.train_stage_files("operator", smoke, straight, fresh=True)
    run = own(RunDir.of(tmp_path / "interrupted", smoke.checkpoint.dir))

    timer = threading.Timer(delay_s, terminate)
    fresh, interruptions = True, 0
    try:
        timer.start()
        training.train_stage_files("operator", smoke, run, fresh=True)
        timer.join()
    except Raised:
        interruptions += 1
        fresh = read_status(run.status).stage("operator").status == "not_started"
        if read_status(run.status).stage("operator").status != "completed":
            training.train_stage_files("operator", smoke, run, fresh=fresh)

    assert interruptions == 1
    assert (run.checkpoints / "operator.pt").read_bytes() == (straight.checkpoints / "operator.pt").read_bytes()
    assert (run.checkpoints / "operator_ema.pt").read_bytes() == (straight.checkpoints / "operator_ema.pt").read_bytes()
