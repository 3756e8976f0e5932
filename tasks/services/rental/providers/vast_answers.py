"""What Vast.ai's answers mean: an error by HTTP status and code, an instance by its states; texts are only quoted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests

from tasks.services.rental.provider import (
    Instance,
    KeyRefused,
    NoSuchInstance,
    OfferGone,
    ProviderError,
    ProviderRefused,
    State,
    UnknownOutcome,
)
from tasks.services.rental.providers.answers import GONE, KEY_REFUSED, MAX_TEXT, NO_CREDIT, PROVES_NOTHING, redacted
from ups_models.errors import UPSError

KEY = "VAST_API_KEY"
SDK_ERRORS = (requests.RequestException, KeyError, TypeError, ValueError, AttributeError, IndexError, TimeoutError)
"""What the SDK raises: its HTTP library's errors, and its own slips over answers that it did not expect."""
KEY_CODES, CREDIT_CODES = ("auth_error",), ("insufficient_credit",)
OFFER_CODES = ("no_such_ask", "bid_too_low", "invalid_price")
"""The offer went to somebody else, or its price has risen above the bid."""
BOOTING = (None, "created", "loading", "rebooting", "restarting")
DEAD = ("exited", "unknown")
AWAY = ("stopped", "frozen", "offline")
CONTAINER_ERRORS = ("error", "failed", "failure", "exception", "traceback", "oci runtime", "permission denied")
"""Vast.ai's own self-test looks for these in `status_msg` while a container comes up; there is no code for it."""


def proves_nothing(error: Exception) -> bool:
    """Whether what the SDK raised says nothing about what was asked, so that it may be asked again."""
    if not isinstance(error, SDK_ERRORS):
        return False
    status, body = answer_of(error)
    return status is None or _is_unclear(status, body)


def answer_of(error: Exception) -> tuple[int | None, dict[str, Any]]:
    """HTTP status and JSON object of what the SDK raised. None: there was no answer; {}: it was no JSON object."""
    response = getattr(error, "response", None)
    if response is None:
        return None, {}
    try:
        body = response.json()
    except ValueError:
        body = {}
    return int(response.status_code), body if isinstance(body, dict) else {}


def error_of(status: int | None, body: Mapping[str, Any], doing: str, *, renting: bool = False) -> UPSError:
    """An error of ours, without secrets. `status` None: the body came with 200, or there was no answer at all."""
    code, text = str(body.get("error") or ""), _text(body)
    what = f"HTTP {status} ({text})" if status else text
    if status in NO_CREDIT or code in CREDIT_CODES:
        return ProviderRefused(f"{doing}: the account has no credit ({text}); add some")
    if status in KEY_REFUSED or code in KEY_CODES:
        return KeyRefused(
            f"{doing}: Vast.ai refuses the key ({text}); check {KEY}, its rights, and whether the account's "
            "two-factor login needs a key of its own"
        )
    if _is_unclear(status, body):
        return UnknownOutcome(f"{doing}: {what if status or body else 'no answer'}")
    if renting and (code in OFFER_CODES or status in GONE or body.get("new_contract")):
        return OfferGone(f"{doing}: the offer is gone ({text})")
    if status in GONE:
        return NoSuchInstance(f"{doing}: it is gone ({text})")
    return ProviderError(f"{doing}: refused: {what}")


def _is_unclear(status: int | None, body: Mapping[str, Any]) -> bool:
    """An outage, a limit, or an answer that is not one of the service: it words all its refusals as JSON."""
    if status is None:
        return not body.get("error")
    return status >= 500 or status in PROVES_NOTHING or (not body and status not in (*KEY_REFUSED, *NO_CREDIT))


def instance_of(row: Mapping[str, Any]) -> Instance:
    """One row of the service. Raises UnknownOutcome where it does not say whether the machine runs."""
    if not {"id", "actual_status", "intended_status"} <= row.keys():
        raise UnknownOutcome(f"Vast.ai does not say whether instance {row.get('id')} runs")
    detail = " ".join(str(row.get("status_msg") or "").split())[:MAX_TEXT]
    return Instance(
        str(row["id"]),
        str(row.get("machine_id") or ""),
        str(row.get("label") or ""),
        _state_of(row, detail),
        redacted(detail or str(row["actual_status"]), KEY),
        bool(row.get("is_bid")),
        float(row.get("dph_total") or 0.0),
    )


def _state_of(row: Mapping[str, Any], detail: str) -> State:
    """Outbid shows as stopped or exited, with or without the intention to stop, and even while the image is pulled."""
    actual = row["actual_status"]
    if row["intended_status"] != "running" or actual in AWAY or (actual in DEAD and _is_outbid(row)):
        return "away"
    if actual == "running":
        return "running"
    if actual in DEAD or any(word in detail.lower() for word in CONTAINER_ERRORS):
        return "failed"
    return "booting" if actual in BOOTING else "away"


def _is_outbid(row: Mapping[str, Any]) -> bool:
    least, ours = row.get("min_bid"), row.get("dph_total")
    if not isinstance(least, int | float) or not isinstance(ours, int | float):
        return False
    return bool(row.get("is_bid")) and least > ours


def reason_of(error: Exception) -> str:
    """Why the service did not do what it was asked, in a few words."""
    status, body = answer_of(error)
    return f"HTTP {status} {_text(body)}" if status else type(error).__name__


def _text(body: Mapping[str, Any]) -> str:
    words = [str(body[key]) for key in ("error", "msg", "detail") if body.get(key)]
    return redacted(": ".join(words)[:MAX_TEXT] or "no reason given", KEY)
