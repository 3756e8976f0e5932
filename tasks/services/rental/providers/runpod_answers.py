"""What RunPod's answers mean: an error by HTTP status, a pod by its state; texts are only quoted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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
from ups_models.reading import parse_json

KEY = "RUNPOD_API_KEY"
BAD_REQUEST = 400
"""When renting: a broken rule, or no capacity; the service has no code that tells them apart."""
TERMINATED = "TERMINATED"
STATES: Mapping[str, State] = {
    "PROVISIONING": "booting",
    "STARTING": "booting",
    "RUNNING": "running",
    "EXITED": "failed",
    "ERROR": "failed",
}


def object_in(status: int, content: bytes, doing: str, *, renting: bool = False) -> Mapping[str, Any]:
    """The JSON object of an answer; empty for 204. Raises what its status means, without secrets."""
    body = _json(content)
    if status == 204:
        return {}
    if 200 <= status < 300 and body:
        return body
    raise error_of(status, body, doing, renting=renting)


def error_of(status: int, problem: Mapping[str, Any], doing: str, *, renting: bool = False) -> UPSError:
    """An error of ours; `problem` is the answer's JSON object, empty where it is none."""
    text = _text(problem)
    what = f"HTTP {status} ({text})"
    if status in NO_CREDIT:
        return ProviderRefused(f"{doing}: the account has no credit ({text}); add some")
    if status in KEY_REFUSED:
        pool = ", or whether the account may use this GPU: try another --gpu" if renting else ""
        return KeyRefused(f"{doing}: RunPod refuses the key ({text}); check {KEY} and its rights{pool}")
    if proves_nothing(status, problem):
        return UnknownOutcome(f"{doing}: {what}")
    if renting and (status == BAD_REQUEST or status in GONE):
        return OfferGone(f"{doing}: refused, for want of capacity or by a rule ({text})")
    if status in GONE:
        return NoSuchInstance(f"{doing}: it is gone ({text})")
    return ProviderError(f"{doing}: refused: {what}")


def proves_nothing(status: int, problem: Mapping[str, Any]) -> bool:
    """An outage, a limit, or an answer that is none of the service: it words all its refusals as problems."""
    worded = {"title", "status", "detail"} <= problem.keys()
    return status < 400 or status >= 500 or status in PROVES_NOTHING or not worded


def instance_of(pod: Mapping[str, Any]) -> Instance:
    """One pod of the service. Raises UnknownOutcome where it does not say what it is and whether it runs."""
    name, label, status = pod.get("id"), pod.get("name"), pod.get("status")
    if not is_id(name) or not isinstance(label, str) or not isinstance(status, str):
        raise UnknownOutcome("RunPod does not say of an instance which it is, or whether it runs")
    gpu, cost = pod.get("gpu"), pod.get("cost")
    kind = gpu.get("id") if isinstance(gpu, Mapping) else None
    return Instance(
        str(name),
        machine_id(str(pod.get("cloud") or ""), str(pod.get("dataCenterId") or ""), str(kind or "")),
        label,
        STATES.get(status, "away"),
        redacted(status, KEY),
        False,
        float(cost) if isinstance(cost, int | float) else 0.0,
    )


def is_id(value: object) -> bool:
    """Whether it is a pod's id: files and commands carry it."""
    return isinstance(value, str) and re.fullmatch(r"[\w-]+", value) is not None


def machine_id(cloud: str, data_center: str, gpu: str) -> str:
    """The nearest to a machine that the service names: what it has of a GPU in one place."""
    return f"{cloud}/{data_center}/{gpu}"


def events_in(stream: bytes) -> int:
    """How many whole events with data a stream has had so far."""
    return sum(b"data:" in event for event in stream.replace(b"\r\n", b"\n").split(b"\n\n")[:-1])


def lines_of(stream: str) -> str:
    """The log in a stream of events, as whole lines. An event that cannot be read is left out."""
    lines = []
    for event in stream.replace("\r\n", "\n").split("\n\n")[:-1]:  # the last one may be cut off
        data = "\n".join(line[5:].lstrip(" ") for line in event.split("\n") if line.startswith("data:"))
        found = _json(data.encode())
        if isinstance(found.get("line"), str):
            lines.append(found["line"].rstrip("\n"))
    return redacted("".join(f"{line}\n" for line in lines), KEY)


def _json(content: bytes) -> Mapping[str, Any]:
    try:
        found = parse_json(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(problem: Mapping[str, Any]) -> str:
    given = problem.get("errors")
    errors = [str(error) for error in given] if isinstance(given, list) else []
    words = [str(problem[key]) for key in ("title", "detail") if problem.get(key)]
    return redacted(": ".join((*words, *errors))[:MAX_TEXT] or "no reason given", KEY)
