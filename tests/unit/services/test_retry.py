"""Trying again: so often, after such pauses, and only what may cure itself."""

import pytest

from tasks.services.run.retry import retrying


class Answers:
    """Raises these errors one after the other, then answers; counts how often it was asked."""

    def __init__(self, *errors):
        self.errors, self.asked = list(errors), 0

    def __call__(self, answer):
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return answer


@pytest.fixture
def paused():
    """The pauses that were made, in seconds."""
    return []


def test_what_answers_is_asked_once(paused):
    answers = Answers()

    assert retrying((1.0, 2.0), OSError, pause=paused.append)(answers, 7) == 7
    assert (answers.asked, paused) == (1, [])


def test_it_is_asked_again_after_each_pause(paused, caplog):
    answers = Answers(OSError("first"), OSError("second"))

    assert retrying((1.0, 2.0), OSError, pause=paused.append)(answers, 7) == 7
    assert (answers.asked, paused) == (3, [1.0, 2.0])
    assert caplog.messages == ["first; trying again in 1 s", "second; trying again in 2 s"]


def test_the_last_error_is_raised_as_it_is(paused):
    last = OSError("third")
    answers = Answers(OSError("first"), OSError("second"), last)

    with pytest.raises(OSError, match="third") as caught:
        retrying((1.0, 2.0), OSError, pause=paused.append)(answers, 7)

    assert caught.value is last
    assert answers.asked == 3


def test_an_error_that_does_not_cure_itself_is_raised_at_once(paused):
    answers = Answers(ValueError("wrong"))

    with pytest.raises(ValueError, match="wrong"):
        retrying((1.0, 2.0), (OSError, KeyError), pause=paused.append)(answers, 7)

    assert (answers.asked, paused) == (1, [])


def test_a_question_may_decide_which_error_cures_itself(paused):
    answers = Answers(OSError("busy"), OSError("gone"))

    with pytest.raises(OSError, match="gone"):
        retrying((1.0, 2.0), lambda error: "busy" in str(error), pause=paused.append)(answers, 7)

    assert paused == [1.0]


def test_without_pauses_there_is_one_try():
    answers = Answers(OSError("busy"))

    with pytest.raises(OSError, match="busy"):
        retrying((), OSError)(answers, 7)

    assert answers.asked == 1


def test_what_is_no_news_is_not_logged(paused, caplog):
    retrying((1.0,), OSError, pause=paused.append, warn=False)(Answers(OSError("busy")), 7)

    assert caplog.messages == []
