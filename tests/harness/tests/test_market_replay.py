"""The replay of markets: traces are what they say, rules hold for everybody, and nothing beats the optimum."""

import itertools

import numpy as np
import pytest

from harness.bench.market.baselines import Greedy, OnDemand, UniformProgress
from harness.bench.market.optimum import optimum
from harness.bench.market.product import ExpectedCost
from harness.bench.market.replay import replay
from harness.bench.market.traces import AVAILABILITIES, OUTAGE_H, PRICES, SLACKS, Trace, trace
from tasks.services.rental.choosing.policy import TICK_H

WORK = 60
LONG = 20_000


@pytest.mark.parametrize("availability", AVAILABILITIES)
def test_a_trace_has_the_statistics_that_it_names(availability):
    traces = [trace(seed, availability, LONG) for seed in range(8)]
    flips = [np.flatnonzero(np.diff(np.asarray(one.available, int))) for one in traces]
    outages_h = [
        TICK_H * (end - begin)
        for one, at in zip(traces, flips, strict=True)
        for begin, end in itertools.pairwise(at)
        if not one.available[begin + 1]
    ]

    assert np.mean([np.mean(one.available) for one in traces]) == pytest.approx(availability, abs=0.05)
    assert (min(outages_h), max(outages_h)) == pytest.approx(OUTAGE_H, abs=0.25)
    assert all(PRICES[0] <= price <= PRICES[1] for one in traces for price in one.price)
    assert {one.changeover for one in traces} <= {1, 2}
    assert trace(3, availability, 100) == trace(3, availability, 100) != trace(4, availability, 100)


@pytest.mark.parametrize("policy", [OnDemand, Greedy, UniformProgress, ExpectedCost])
@pytest.mark.parametrize("slack", SLACKS)
def test_every_policy_is_in_time_and_none_is_cheaper_than_the_optimum(policy, slack):
    deadline = round(slack * WORK)
    for seed in range(40):
        market = trace(seed, AVAILABILITIES[seed % 3], deadline)

        found = replay(market, WORK, deadline, policy)

        assert found.in_time
        assert found.cost >= optimum(market, WORK, deadline) - 1e-9


def test_the_optimum_of_small_markets_is_known():
    always, never = (Trace((up,) * 10, (0.4,) * 10, 1) for up in (True, False))
    late = Trace((False,) * 4 + (True,) * 6, (0.4,) * 10, 1)

    assert optimum(always, 5, 10) == pytest.approx(6 * 0.4 * TICK_H)
    assert optimum(never, 5, 10) == pytest.approx(6 * TICK_H)
    assert optimum(late, 5, 10) == pytest.approx(6 * 0.4 * TICK_H)  # it waits for what it knows will come
    assert optimum(late, 6, 10) == pytest.approx((2 + 6 * 0.4) * TICK_H)
    assert optimum(never, 5, 5) == np.inf
