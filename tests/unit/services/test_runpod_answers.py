"""What RunPod's answers mean: the status decides, words never do; a pod says whether a machine is of use."""

import json

import pytest

from tasks.services.rental.provider import (
    KeyRefused,
    NoSuchInstance,
    OfferGone,
    ProviderError,
    ProviderRefused,
    UnknownOutcome,
)
from tasks.services.rental.providers.runpod_answers import events_in, instance_of, lines_of, object_in

POD = {"id": "p1", "name": "ups-r1-g1", "status": "RUNNING", "cost": 0.44, "cloud": "SECURE", "dataCenterId": "EU-RO-1"}
NO_PROBLEM = [b"", b"<html>Just a moment...</html>", b'{"id": 1', b"[]", b"null", b'"ok"', b'{"hello": "world"}']


def problem(status, detail="balance authorization capacity gone"):
    return json.dumps({"title": "Refused", "status": status, "detail": detail}).encode()


def meaning(status, content, *, renting=False):
    with pytest.raises((ProviderError, ProviderRefused)) as raised:
        object_in(status, content, "asking", renting=renting)
    return type(raised.value)


@pytest.mark.parametrize("worded", [True, False])
@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 530, 599])
@pytest.mark.parametrize("renting", [False, True])
def test_an_outage_or_a_limit_proves_nothing(status, worded, renting):
    assert meaning(status, problem(status) if worded else b"<html>", renting=renting) is UnknownOutcome


@pytest.mark.parametrize("content", NO_PROBLEM)
@pytest.mark.parametrize("status", [301, 400, 404, 410, 418, 422])
@pytest.mark.parametrize("renting", [False, True])
def test_nor_does_a_refusal_that_is_no_problem_of_the_service(status, content, renting):
    assert meaning(status, content, renting=renting) is UnknownOutcome


@pytest.mark.parametrize("content", [one for one in NO_PROBLEM if one != b'{"hello": "world"}'])
def test_nor_does_an_answer_without_an_object(content):
    assert meaning(200, content) is UnknownOutcome


@pytest.mark.parametrize(
    ("status", "asking", "renting"),
    [
        (400, ProviderError, OfferGone),
        (401, KeyRefused, KeyRefused),
        (402, ProviderRefused, ProviderRefused),
        (403, KeyRefused, KeyRefused),
        (404, NoSuchInstance, OfferGone),
        (410, NoSuchInstance, OfferGone),
        (422, ProviderError, ProviderError),
    ],
)
def test_a_refusal_means_what_its_status_says_whatever_its_words(status, asking, renting):
    for words in ("no capacity", "invalid api key", "insufficient balance", "not found"):
        assert meaning(status, problem(status, words)) is asking
        assert meaning(status, problem(status, words), renting=True) is renting


def test_what_was_wrong_with_an_order_is_quoted_without_secrets(monkeypatch):
    monkeypatch.setenv("RUNPOD_API_KEY", "canary")
    said = {"title": "Unprocessable Entity", "status": 422, "detail": "no", "errors": ["$.env: canary is bad"]}

    with pytest.raises(ProviderError, match=r"HTTP 422 .*\$\.env: <RUNPOD_API_KEY> is bad"):
        object_in(422, json.dumps(said).encode(), "renting", renting=True)


def test_an_answer_without_a_body_is_empty():
    assert object_in(204, b"", "destroying it") == {}


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("PROVISIONING", "booting"),
        ("STARTING", "booting"),
        ("RUNNING", "running"),
        ("EXITED", "failed"),
        ("ERROR", "failed"),
        ("MIGRATING", "away"),
    ],
)
def test_a_pod_is_of_use_by_its_status(status, state):
    assert instance_of({**POD, "status": status}).state == state


def test_a_pod_is_known_by_what_it_says():
    one = instance_of({**POD, "gpu": {"id": "NVIDIA L4"}, "env": {"WANDB_API_KEY": "canary"}})

    assert (one.id, one.machine_id, one.label) == ("p1", "SECURE/EU-RO-1/NVIDIA L4", "ups-r1-g1")
    assert (one.usd_per_hour, one.is_bid) == (0.44, False)
    assert "canary" not in repr(one)


@pytest.mark.parametrize("name", ["id", "name", "status"])
@pytest.mark.parametrize("value", [None, 7, {}])
def test_a_pod_that_does_not_say_what_it_is_proves_nothing(name, value):
    with pytest.raises(UnknownOutcome):
        instance_of({**POD, name: value})


def event(line):
    return f"id: 2026-06-01T12:02:03Z/1\ndata: {json.dumps({'ts': 't', 'source': 'container', 'line': line})}\n\n"


def test_a_log_is_the_lines_of_its_events():
    assert lines_of(event("one") + event("two \u00e9") + event("")) == "one\ntwo \u00e9\n\n"


@pytest.mark.parametrize(
    "stream", ["", "data: {", event("one")[:-1], ": ping\n\n", "data: 7\n\n", 'data: {"line": 7}\n\n', "event: end\n\n"]
)
def test_what_is_no_whole_event_is_left_out(stream):
    assert lines_of(stream) == ""


@pytest.mark.parametrize(
    ("stream", "count"),
    [
        (b"", 0),
        (event("data: {data:\n\ndata:").encode(), 1),
        (event("one").encode() + b"id: 2\ndata: {", 1),
        (b": ping\n\n" + event("one").encode(), 1),
        (event("one").replace("\n", "\r\n").encode() * 2, 2),
    ],
)
def test_only_whole_events_with_data_are_counted(stream, count):
    assert events_in(stream) == count


def test_lines_may_end_as_on_windows():
    assert lines_of(event("one").replace("\n", "\r\n")) == "one\n"
