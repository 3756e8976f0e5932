"""The environment as the one module that touches it reads and changes it."""

import os
from pathlib import Path
from unittest.mock import patch

import pytest

from tasks.services.run import environment

NAME = "UPS_TEST_VARIABLE"


@pytest.fixture(autouse=True)
def _kept():
    """The environment is as before afterwards."""
    with patch.dict(os.environ):
        os.environ.pop(NAME, None)
        yield


@pytest.mark.parametrize("empty", [None, ""])
def test_a_variable_that_is_empty_is_none(empty):
    if empty is not None:
        os.environ[NAME] = empty

    assert environment.get(NAME) == ""
    assert environment.get(NAME, "default") == "default"
    assert not environment.is_set(NAME)
    assert environment.number(NAME) is None


def test_a_variable_wins_over_its_default():
    os.environ[NAME] = "given"

    assert environment.get(NAME, "default") == "given"
    assert environment.is_set(NAME)


def test_a_path_begins_at_home_where_it_says_so():
    os.environ |= {"HOME": "/somewhere", NAME: "~/data"}

    assert environment.path(NAME, "~/other") == Path("/somewhere/data")
    del os.environ[NAME]
    assert environment.path(NAME, "~/other") == Path("/somewhere/other")


@pytest.mark.parametrize(("text", "number"), [("12", 12), ("0", 0), ("-1", None), ("1.5", None), ("many", None)])
def test_a_number_is_a_whole_one_or_none(text, number):
    os.environ[NAME] = text

    assert environment.number(NAME) == number


def test_what_is_set_is_selected():
    os.environ[NAME] = ""

    assert environment.selected((NAME, f"{NAME}_2")) == {NAME: ""}


def test_a_child_gets_what_we_have_and_more():
    os.environ[NAME] = "ours"

    child = environment.child(MORE="more")

    assert child == {**os.environ, "MORE": "more"}
    assert "MORE" not in os.environ


def test_what_is_put_replaces_what_is_there_unless_that_is_to_stay():
    environment.put(NAME, "first", replace=False)
    environment.put(NAME, "second", replace=False)
    kept = os.environ[NAME]
    environment.put(NAME, "third")

    assert (kept, os.environ[NAME]) == ("first", "third")


def test_what_is_dropped_need_not_be_there():
    os.environ[NAME] = "x"

    environment.drop(NAME, f"{NAME}_2")

    assert NAME not in os.environ
