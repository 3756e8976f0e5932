"""The choice of a machine by a deadline: never late, cheap where there is time, and no needless change."""

from dataclasses import replace

import pytest

from tasks.services.rental.choosing.policy import PRIOR_OUTAGE, PRIOR_SPAN, Sightings, Situation, choose

IDLE = Situation("none", 0, available=True, price=0.4, work_left=40, time_left=120, changeover=2)


def after(*available: bool) -> Sightings:
    seen = Sightings()
    for one in available:
        seen = seen.then(one)
    return seen


def test_with_time_to_spare_an_interruptible_machine_is_taken_and_none_is_waited_for():
    assert choose(IDLE, Sightings()).machine == "spot"
    assert choose(replace(IDLE, available=False), Sightings()).machine == "none"


@pytest.mark.parametrize("available", [True, False])
def test_once_only_a_machine_on_demand_is_sure_to_be_in_time_it_is_bought(available):
    now = replace(IDLE, available=available, time_left=42)

    assert choose(now, Sightings()).machine == "on demand"
    assert choose(now, after(*[True] * 500)).machine == "on demand"


def test_a_machine_on_demand_that_trains_is_kept_where_a_change_would_be_late():
    now = Situation("on demand", 0, available=True, price=0.4, work_left=40, time_left=41, changeover=2)

    assert choose(now, Sightings()).machine == "on demand"


def test_an_interruptible_machine_that_trains_may_still_be_the_sure_one():
    now = Situation("spot", 0, available=True, price=0.4, work_left=1, time_left=2, changeover=2)

    assert choose(now, Sightings()).machine == "spot"


def test_a_machine_on_demand_is_left_for_one_that_lasts_and_not_for_one_that_is_soon_taken_away():
    now = replace(IDLE, machine="on demand", time_left=60, price=0.5)
    short, long = after(*[True, False] * 200), after(*[True] * 400)

    assert choose(now, short).machine == "on demand"
    assert choose(now, long).machine == "spot"


def test_what_each_choice_is_expected_to_cost_is_told():
    expected = choose(IDLE, Sightings()).expected

    assert min(expected, key=lambda machine: expected[machine]) == "spot"
    assert 40 * 0.4 < expected["spot"] < 42


def test_estimates_begin_at_the_prior_and_follow_what_is_seen():
    assert (Sightings().span, Sightings().outage) == (PRIOR_SPAN[0], PRIOR_OUTAGE[0])

    seen = after(*([True] * 10 + [False] * 50) * 40)

    assert seen.span == pytest.approx(10, rel=0.1)
    assert seen.outage == pytest.approx(50, rel=0.1)


def test_a_far_deadline_is_decided_in_coarser_ticks():
    week = replace(IDLE, work_left=600, time_left=7 * 288)

    near, far = choose(replace(week, work_left=300, time_left=500), Sightings()), choose(week, Sightings())

    assert far.machine == "spot"
    assert choose(replace(week, work_left=2010), Sightings()).machine == "on demand"
    assert 1.5 < far.expected["spot"] / near.expected["spot"] < 2.5
