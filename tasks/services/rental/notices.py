"""Telling somebody how a launch ended: an alert in the W&B run, and a small JSON to a webhook."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlparse

import httpx

from tasks.services.rental.claims import TakenOver
from tasks.services.rental.journal import Journal
from tasks.services.rental.limits import BudgetSpent
from tasks.services.tracking.protocols import TrackingUnavailable
from tasks.services.tracking.run_path import is_this_machine
from ups_models.errors import BadInput
from ups_models.wording import first_line, shortened

logger = logging.getLogger(__name__)

WITHIN_S, LONGEST = 10.0, 500


def require_safe_webhook(url: str) -> None:
    """Raise ValueError for an address that is not https, or http on this machine."""
    try:
        parts = urlparse(url)
        host = parts.hostname or ""
    except ValueError:
        parts, host = None, ""
    if parts is None or not host or not (parts.scheme == "https" or (parts.scheme == "http" and is_this_machine(host))):
        raise ValueError("is no https:// address of a webhook (http:// only on this machine)")


Post = Callable[..., httpx.Response]
Alert = Callable[..., None]
"""Takes title, text and `is_error`. Raises TrackingUnavailable."""


@contextmanager
def noticed(
    url: str | None, run: str, journal: Journal, post: Post = httpx.post, alert: Alert | None = None
) -> Iterator[None]:
    """Tell how what is done in the block ended: W&B, and the webhook, if there is one; it is raised all the same.

    W&B is not told of a stop by a signal, which must not take long, nor where another controller has the run.
    """
    event, message = "completed", "the training is complete"
    try:
        yield
    except Exception as error:
        event, message = _event_of(error), first_line(error)
        alert = None if isinstance(error, TakenOver) else alert
        raise
    except BaseException:
        event, message, alert = "stopped", stopped(journal), None
        raise
    finally:
        content = _content(event, run, journal, message)
        if url is not None:
            _notify(post, url, content)
        if alert is not None:
            _alert(alert, event, content["text"])


def stopped(journal: Journal) -> str:
    """What a launch came to that a signal ended: what is not known to be destroyed is named."""
    left = [machine.id or machine.label for machine in journal.not_destroyed()]
    if not left:
        return "stopped by a signal; the machines are destroyed; run the same command to resume"
    return (
        f"stopped by a signal; not known to be destroyed, and may cost: {', '.join(left)}; run the same command to "
        "resume, or end it: ups stop"
    )


def _event_of(error: Exception) -> str:
    if isinstance(error, BudgetSpent):
        return "budget spent"
    return "bad input" if isinstance(error, BadInput) else "gave up"


def _content(event: str, run: str, journal: Journal, message: str) -> dict[str, Any]:
    launches = journal.launches()
    spent = launches[-1].usd(time.time()) if launches else 0.0
    hours, machines = journal.hours(), sum(machine.id is not None for one in launches[-1:] for machine in one.machines)
    text = f"{event}: run {run}: {shortened(message, LONGEST)} ({spent:.2f} USD, {hours:.1f} h)"
    facts = {"event": event, "run": run, "usd": round(spent, 4), "hours": round(hours, 3), "machines": machines}
    return {"text": text, **facts}


def _alert(alert: Alert, event: str, text: str) -> None:
    try:
        alert(f"ups launch: {event}", text, is_error=event != "completed")
    except TrackingUnavailable as error:
        logger.warning("%s: nobody was told", error)


def _notify(post: Post, url: str, content: Mapping[str, Any]) -> None:
    try:
        answer = post(url, json=dict(content), timeout=WITHIN_S, follow_redirects=False)
        answer.raise_for_status()
    except httpx.HTTPStatusError as error:
        logger.warning("the webhook of --notify answered HTTP %d: nobody was told", error.response.status_code)
    except httpx.HTTPError as error:
        logger.warning("the webhook of --notify could not be reached (%s): nobody was told", type(error).__name__)
