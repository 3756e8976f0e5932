"""What a person watching long work sees: a live line on a terminal, log lines elsewhere."""

import io
import logging
import sys

import pytest

from tasks.services.run.progress import progress_of


class Screen(io.StringIO):
    """A terminal, or not."""

    def __init__(self, *, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.fixture
def stderr(monkeypatch):
    """Replaces stderr."""

    def replace(*, terminal):
        screen = Screen(terminal=terminal)
        monkeypatch.setattr(sys, "stderr", screen)
        return screen

    return replace


def test_a_terminal_shows_how_far_it_is_with_a_rate(stderr):
    screen = stderr(terminal=True)

    with progress_of("operator", 30, 10) as update:
        update(30, "loss 0.5")

    assert "operator" in screen.getvalue()
    assert "30/30" in screen.getvalue()
    assert "loss 0.5" in screen.getvalue()
    assert "/s" in screen.getvalue()


def test_elsewhere_there_is_a_line_from_time_to_time_and_one_at_the_end(stderr, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    screen, moments = stderr(terminal=False), iter([0.0, 1.0, 10.0, 11.0, 20.0])
    monkeypatch.setattr("tasks.services.run.progress.time.monotonic", lambda: next(moments))

    with progress_of("operator", 30) as update:
        for step in (3, 10, 20, 30):
            update(step, "loss 0.5")

    assert caplog.messages == [
        "operator 10/30  loss 0.5  1.0/s  20 s left",
        "operator 30/30  loss 0.5  1.5/s  0 s left",
    ]
    assert screen.getvalue() == ""


def test_what_stands_still_has_no_end_in_sight(stderr, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    stderr(terminal=False)
    moments = iter([0.0, 10.0])
    monkeypatch.setattr("tasks.services.run.progress.time.monotonic", lambda: next(moments))

    with progress_of("operator", 30, 7) as update:
        update(7, "")

    assert caplog.messages[0].endswith("0.0/s  inf s left")
