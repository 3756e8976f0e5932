"""Signals that must not be lost: sent again where what they raise is swallowed."""

import os
import signal

import pytest

from tasks.services.run.signals import StopRequest, redeliver_lost_signals, redeliver_pending


class Stopped(BaseException):
    """What the handler of a framework raises."""


@pytest.fixture(autouse=True)
def framework():
    """A handler that raises, as Prefect's does."""

    def handle(number, frame):
        raise Stopped

    previous = signal.signal(signal.SIGTERM, handle)
    yield
    signal.signal(signal.SIGTERM, previous)


class Finalised:
    """Gets the signal while it is finalised, where Python swallows what is raised."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))


def lose_a_signal():
    Finalised()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_a_finaliser_swallowed_takes_effect_at_the_next_boundary():
    with redeliver_lost_signals():
        lose_a_signal()
        with pytest.raises(Stopped):
            redeliver_pending()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_a_finaliser_swallowed_stops_the_next_stage():
    with redeliver_lost_signals():
        lose_a_signal()
        assert StopRequest()()


def test_a_signal_goes_to_its_handler_at_once():
    with pytest.raises(Stopped), redeliver_lost_signals():
        os.kill(os.getpid(), signal.SIGTERM)


def test_nothing_is_delivered_that_was_not_heard():
    with redeliver_lost_signals():
        redeliver_pending()


def test_an_error_that_a_signal_turned_into_is_the_signal_again():
    def import_something():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Stopped:
            raise ImportError("cannot load module more than once per process") from None

    with pytest.raises(Stopped), redeliver_lost_signals():
        import_something()


def test_an_error_without_a_signal_stays_that_error():
    with pytest.raises(ImportError), redeliver_lost_signals():
        raise ImportError("no such module")


def test_what_was_heard_is_forgotten_at_the_end():
    with pytest.raises(Stopped), redeliver_lost_signals():
        os.kill(os.getpid(), signal.SIGTERM)

    assert not StopRequest()()
