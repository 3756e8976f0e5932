"""By when a launch must be done, and what it may come to."""

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from tasks.services.rental.choosing.pace import Work
from ups_models.errors import BadInput
from ups_models.wording import shown


@dataclass(frozen=True)
class Terms:
    """What a launch is to come to.

    Attributes:
        expected_hours: How long the training takes on such a machine, as its owner says; None: it is estimated.
        usd_per_hour_sooner: What an hour is worth to the one who waits.
        deadline: When the evaluation must be done, in seconds since 1970.
        max_usd: Most to pay in all.
    """

    work: Work
    expected_hours: float | None = None
    usd_per_hour_sooner: float = 0.1
    deadline: float | None = None
    max_usd: float = math.inf


CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?")
"""A time of day."""


def deadline_of(text: str, now: float) -> float:
    """In seconds since 1970: the next `08:00` of the local clock, or a date with a time, as in 2026-12-01T08:00.

    Raises BadInput for what is no time, or has passed.
    """
    here = datetime.fromtimestamp(now, UTC).astimezone()
    if CLOCK.fullmatch(text) is None:
        return _date(text, now)
    hour_minute = time.fromisoformat(text)
    moment = datetime.combine(here.date(), hour_minute).astimezone()
    if moment.timestamp() <= now:
        moment = datetime.combine(here.date() + timedelta(days=1), hour_minute).astimezone()
    return moment.timestamp()


def at(seconds: float) -> str:
    """A time of the local clock, to the minute."""
    return f"{datetime.fromtimestamp(seconds, UTC).astimezone():%Y-%m-%d %H:%M}"


def _date(text: str, now: float) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"--deadline {shown(text)}: is no time; write 08:00, or a date as in 2026-12-01T08:00") from None
    if "T" not in text.upper() and " " not in text:
        raise BadInput(f"--deadline {shown(text)}: names a day without an hour; write {text}T08:00")
    seconds = (moment if moment.tzinfo is not None else moment.astimezone()).timestamp()
    if seconds <= now:
        raise BadInput(f"--deadline {shown(text)}: has passed (it is {at(now)}); name a later one")
    return seconds
