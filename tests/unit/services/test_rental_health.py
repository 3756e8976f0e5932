"""Whether a rented machine is still of use, row by row: no provider, no run, no clock."""

from typing import get_args

import pytest

from tasks.services.rental.health import START, End, Observation, Verdict, verdict_of, verdict_on_exit
from tasks.services.rental.limits import BudgetSpent, Limits
from tasks.services.rental.machine_log import MAX_LINE, exit_code_in, last_line_of

LIMITS = Limits(boot_timeout_s=100, stalled_after_s=1000, lost_after_s=30)
AT_WORK = ("operator", 10)
TWICE = "the same error twice at"


def seen(*looks):
    """An observation after these looks (seconds, state, position), from second 0 on."""
    observation = Observation.begin(0.0)
    for now, state, position in looks:
        observation = observation.then(state, "a detail", position, now)
    return observation


@pytest.mark.parametrize(
    ("looks", "end"),
    [
        pytest.param([(0, "booting", START)], None, id="booting"),
        pytest.param([(0, "booting", START), (100, "booting", START)], None, id="booting-to-the-last-second"),
        pytest.param([(0, "booting", START), (101, "booting", START)], "broken", id="boots-too-long"),
        pytest.param([(0, "failed", START)], "broken", id="image-does-not-start"),
        pytest.param([(0, "away", START), (29, "away", START)], None, id="away-before-it-ran"),
        pytest.param([(0, "away", START), (30, "away", START)], "lost", id="lost-before-it-ran"),
        pytest.param([(99, "running", START), (500, "running", START)], None, id="running"),
        pytest.param([(0, "running", START), (1000, "running", START)], None, id="idle-to-the-last-second"),
        pytest.param([(0, "running", START), (1001, "running", START)], "broken", id="stalled"),
        pytest.param([(0, "running", START), (900, "running", AT_WORK), (1800, "running", AT_WORK)], None, id="moves"),
        pytest.param(
            [(0, "running", AT_WORK), (900, "booting", AT_WORK), (1800, "booting", AT_WORK)], None, id="starts-again"
        ),
        pytest.param(
            [(0, "running", AT_WORK), (5, "away", AT_WORK), (34, "away", AT_WORK)], None, id="away-for-a-while"
        ),
        pytest.param([(0, "running", AT_WORK), (5, "away", AT_WORK), (35, "away", AT_WORK)], "lost", id="taken-away"),
        pytest.param([(0, "running", AT_WORK), (5, "failed", AT_WORK), (35, "failed", AT_WORK)], "lost", id="outbid"),
        pytest.param(
            [(0, "running", AT_WORK), (5, "away", AT_WORK), (30, "running", AT_WORK), (40, "away", AT_WORK)],
            None,
            id="away-twice-is-counted-anew",
        ),
    ],
)
def test_what_is_observed_decides_whether_a_machine_is_of_use(looks, end):
    verdict = verdict_of(seen(*looks), LIMITS)

    assert (verdict.end if verdict is not None else None) == end


def test_only_a_machine_that_never_ran_is_not_rented_again():
    looks = {"never up": [(0, "failed", START)], "stalled": [(0, "running", START), (1001, "running", START)]}

    verdicts = {name: verdict_of(seen(*rows), LIMITS) for name, rows in looks.items()}

    assert verdicts == {
        "never up": Verdict("broken", "did not come up (a detail)", exclude=True),
        "stalled": Verdict("broken", "did nothing for 1001 s"),
    }


def test_a_look_leaves_the_observation_before_it_as_it_was():
    before = seen((0, "booting", START))

    after = before.then("running", "", AT_WORK, 7.0)

    assert (before.state, before.was_running, before.position) == ("booting", False, START)
    assert (after.state, after.was_running, after.position, after.moved_at) == ("running", True, AT_WORK, 7.0)


@pytest.mark.parametrize(
    ("code", "failed_at", "verdict"),
    [
        (0, None, Verdict("completed")),
        (75, AT_WORK, Verdict("preempted", "was preempted")),
        (76, AT_WORK, Verdict("broken", "had no CUDA device (exit code 76)", exclude=True)),
        (77, None, Verdict("broken", "could not fetch or install its job (exit code 77)", exclude=True)),
        (2, None, Verdict("failed", "ended with exit code 2", fatal="exit code 2, bad input")),
        (1, None, Verdict("failed", "ended with exit code 1")),
        (1, ("operator", 0), Verdict("failed", "ended with exit code 1")),
        (9, AT_WORK, Verdict("failed", "ended with exit code 9", fatal=f"exit code 9, {TWICE} operator step 10")),
    ],
)
def test_an_exit_code_decides_what_follows(code, failed_at, verdict):
    assert verdict_on_exit(code, AT_WORK, failed_at) == verdict


def test_an_error_before_the_first_step_is_at_the_start():
    assert verdict_on_exit(1, START, START).fatal == "exit code 1, the same error twice at the start"


def test_only_errors_of_ours_are_counted():
    assert [end for end in get_args(End) if Verdict(end).is_error] == ["broken", "failed"]


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([], None),
        (["operator 12/30"], None),
        (["ups-onstart: exit 0 generation 3"], 0),
        (["ups-onstart: exit 1 generation 2"], None),
        (["ups-onstart: exit 1 generation 3", "restarted", "ups-onstart: exit 75 generation 3\r"], 75),
        (["12:00 ups-onstart: exit 2 generation 13", "x"], None),
    ],
)
def test_the_newest_exit_code_of_this_generation_is_read_from_the_log(lines, code):
    assert exit_code_in(lines, 3) == code


def test_the_last_line_is_the_jobs_own_and_fit_to_be_quoted():
    long = "x" * 1000

    assert last_line_of("a\n  ups: no \x1b[31mfield \n\nups-onstart: exit 2 generation 1\n") == "ups: no field"
    assert last_line_of("ups-onstart: exit 2 generation 1\n") == ""
    assert last_line_of(long) == long[: MAX_LINE - 1] + "…"


@pytest.mark.parametrize(
    ("spent", "named"),
    [
        ({"usd": 5.0, "hours": 0}, "--max-total-cost of 5 USD"),
        ({"usd": 0, "hours": 2.0}, "--max-hours of 2"),
        ({"usd": 0, "hours": 0, "machines": 3}, "the limit of 3 machines"),
    ],
)
def test_a_limit_that_is_reached_is_named_with_the_run_to_go_on_with(spent, named):
    limits = Limits(max_usd=5, max_hours=2, max_machines=3)

    with pytest.raises(BudgetSpent, match=rf"{named}.*--resume-from-wandb p/r1"):
        limits.require_budget("p/r1", **spent)


def test_below_every_limit_nothing_is_said():
    Limits(max_usd=5, max_hours=2, max_machines=3).require_budget("p/r1", usd=4.9, hours=1.9, machines=2)


def test_the_pauses_between_failures_grow_to_the_longest():
    limits = Limits(backoff_s=(1.0, 2.0))

    assert [limits.backoff(failures) for failures in range(4)] == [1.0, 2.0, 2.0, 2.0]
