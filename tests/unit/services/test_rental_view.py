"""What a person sees of a launch: lines for a log, one panel on a terminal."""

import io
import logging

import pytest
from rich.console import Console
from rich.live import Live

from tasks.services.rental.view import Dashboard, LogView

FACTS = {
    "instance": 17,
    "instance_state": "running",
    "generation": 2,
    "stage": "operator",
    "step": 12,
    "usd_per_hour": 0.18,
    "spent_usd": 0.42,
    "log": ["first line", "operator 12/30"],
}


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, logger="tasks")
    return caplog


def test_the_log_says_where_training_is_what_it_costs_and_what_the_machine_wrote_last(smoke, said):
    LogView(smoke)("RUNNING", FACTS)

    assert said.messages == [
        "RUNNING instance 17 (running), machine 2: operator step 12 of 30; 0.180 USD/h, 0.42 USD spent; operator 12/30"
    ]


def test_the_log_does_not_repeat_itself(smoke, said):
    view = LogView(smoke)

    for step in range(5):
        view("RUNNING", {**FACTS, "step": step})

    assert len(said.messages) == 1


def test_the_panel_shows_state_stage_step_cost_and_the_end_of_the_log(smoke):
    written = io.StringIO()
    screen = Console(file=written, force_terminal=True, width=100)

    with Live(console=screen, auto_refresh=False) as live:
        view = Dashboard(live, smoke, "me/project/run", max_usd=20)
        view("SEARCHING", {"attempt": 1})
        view("RUNNING", FACTS)

    shown = written.getvalue()
    for text in ("me/project/run", "RUNNING", "operator step 12 of 30", "0.180 USD/h, 0.42 of 20 USD", "first line"):
        assert text in shown
