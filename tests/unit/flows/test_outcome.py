"""What counts is what our code returned or raised, whatever the engine of Prefect makes of it."""

from types import SimpleNamespace

import pytest
from prefect.exceptions import Abort, CancelledRun
from prefect.states import Cancelled, Failed

from flows.prefect.outcome import Engine
from ups_models.errors import BadInput


class Coat:
    """A flow or task whose engine fails before or after its code."""

    name = "coat"

    def __init__(self, fn, before=None, after=None):
        self.fn, self.before, self.after = fn, before, after
        self.calls = []

    def with_options(self):
        """A copy."""
        return Coat(self.fn, self.before, self.after)

    def __call__(self, *arguments):
        """As the engine does."""
        if self.before is not None:
            raise self.before
        value = self.fn(*arguments)
        if self.after is not None:
            raise self.after
        return SimpleNamespace(state_of=value)


def never():
    raise AssertionError("it was done twice")


def test_the_value_of_the_code_counts_and_not_that_of_the_engine():
    assert Engine().run(Coat(lambda x: x + 1), 1, plainly=never) == 2


@pytest.mark.parametrize("error", [ConnectionError("refused"), Abort("the server says no")])
def test_what_the_engine_raises_after_the_code_is_one_warning(error, caplog):
    engine = Engine()

    assert engine.run(Coat(lambda: "done", after=error), plainly=never) == "done"
    assert engine.failed
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"Prefect failed in coat ({type(error).__name__}: {error})")


def test_what_the_engine_could_not_begin_is_done_without_it_and_so_is_the_rest(caplog):
    engine = Engine()

    first = engine.run(Coat(never, before=ConnectionError("refused")), plainly=lambda: "plainly")
    second = engine.run(Coat(never), plainly=lambda: "this too")

    third = engine.run(Coat(lambda x: x + 1), 1)

    assert (first, second, third) == ("plainly", "this too", 2)
    assert len(caplog.records) == 1


def test_an_error_of_the_code_is_raised_as_it_is_and_nothing_is_done_twice(caplog):
    def refuse():
        raise BadInput("ours")

    with pytest.raises(BadInput, match="ours"):
        Engine().run(Coat(refuse, after=ConnectionError()), plainly=never)
    assert caplog.records == []


def test_a_state_that_holds_an_error_is_that_error():
    with pytest.raises(BadInput, match="ours"):
        Engine().run(Coat(lambda: Failed(data=BadInput("ours"))), plainly=never)


def test_a_run_that_was_called_off_before_it_began_is_not_done_without_prefect():
    with pytest.raises(Abort):
        Engine().run(Coat(never, before=Abort("cancelled")), plainly=never)


def test_code_that_calls_itself_cancelled_is_no_failure_of_the_engine(caplog):
    engine = Engine()
    cancelled = Coat(lambda: Cancelled(message="a person did it"), after=CancelledRun("a person did it"))

    with pytest.raises(CancelledRun, match="a person did it"):
        engine.run(cancelled, plainly=never)

    assert not engine.failed
    assert caplog.messages == []
