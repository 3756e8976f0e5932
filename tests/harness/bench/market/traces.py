"""Traces of a market of interruptible machines: when one is to be had, and at what price; seeded and documented.

The statistics are those that were published of real traces ("Can't Be Late", NSDI 2024, and its data): availability of
0.3, 0.6 and 0.9; outages of half an hour to four hours; spans of availability with a long tail, whose median is well
under their mean; a price of 0.3 to 0.5 of that on demand, which drifts; and 3 to 10 minutes from the start of a machine
to its first step of training. On demand a machine is always to be had, and costs 1 an hour.
"""

from dataclasses import dataclass

import numpy as np

from tasks.services.rental.choosing.policy import TICK_H

AVAILABILITIES = (0.3, 0.6, 0.9)
SLACKS = (1.1, 1.5, 2.0)
"""The deadline, in multiples of the time that the training takes on a machine that is never taken away."""
WORK_H = 12.0
OUTAGE_H = (0.5, 4.0)
"""Outages are log-uniform between these."""
TAIL = 1.0
"""Sigma of the log-normal spans of availability: their median is exp(-0.5) of their mean."""
PRICES = (0.3, 0.5)
DRIFT = 0.01
"""Standard deviation of the change of the price in an hour."""
CHANGEOVER_MINUTES = (3.0, 10.0)


@dataclass(frozen=True)
class Trace:
    """One market: per tick whether an interruptible machine is to be had, and its price in that of one on demand."""

    available: tuple[bool, ...]
    price: tuple[float, ...]
    changeover: int
    """Ticks from the start of a machine to its first step."""


def trace(seed: int, availability: float, ticks: int) -> Trace:
    """The trace of a seed; equal arguments give equal traces."""
    rng = np.random.default_rng([seed, round(100 * availability)])
    changeover = int(np.ceil(rng.uniform(*CHANGEOVER_MINUTES) / 60 / TICK_H))
    return Trace(_available(rng, availability, ticks), _price(rng, ticks), changeover)


def _available(rng: np.random.Generator, availability: float, ticks: int) -> tuple[bool, ...]:
    low, high = np.log(OUTAGE_H)
    mean_outage_h = (OUTAGE_H[1] - OUTAGE_H[0]) / (high - low)
    mean_span_h = mean_outage_h * availability / (1 - availability)
    found: list[bool] = []
    up = bool(rng.random() < availability)
    while len(found) < ticks:
        span = rng.lognormal(np.log(mean_span_h) - TAIL**2 / 2, TAIL) if up else np.exp(rng.uniform(low, high))
        found += [up] * max(1, round(span / TICK_H))
        up = not up
    begin = int(rng.integers(0, max(1, len(found) - ticks + 1)))
    return tuple(found[begin : begin + ticks])


def _price(rng: np.random.Generator, ticks: int) -> tuple[float, ...]:
    """A random walk that is reflected at both ends."""
    low, high = PRICES
    walk = rng.uniform(low, high) + np.cumsum(rng.normal(0.0, DRIFT * np.sqrt(TICK_H), ticks))
    folded = np.abs((walk - low) % (2 * (high - low)))
    return tuple(float(low + min(value, 2 * (high - low) - value)) for value in folded)
