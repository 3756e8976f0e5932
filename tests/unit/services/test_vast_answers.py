"""What Vast.ai's answers mean: status and code decide, words never do; a row says whether a machine is of use."""

import json

import pytest
import requests

from tasks.services.rental.provider import (
    KeyRefused,
    NoSuchInstance,
    OfferGone,
    ProviderError,
    ProviderRefused,
    UnknownOutcome,
)
from tasks.services.rental.providers.vast_answers import answer_of, error_of, instance_of, proves_nothing

ROW = {"id": 7, "actual_status": "running", "intended_status": "running", "label": "ups-r1-g1", "is_bid": True}
NOT_JSON = [b"", b"<html>Just a moment...</html>", b'{"id": 1', b"[]", b"null", b'"ok"']


def raised(status, content):
    """What the SDK raises for an answer with an error status."""
    response = requests.Response()
    response.status_code, response._content = status, content
    return requests.HTTPError(f"{status}", response=response)


def refusal(code, msg=""):
    return json.dumps({"success": False, "error": code, "msg": msg}).encode()


def meaning(status, content, *, renting=False):
    return type(error_of(*answer_of(raised(status, content)), "asking", renting=renting))


@pytest.mark.parametrize("content", [refusal("internal_error"), b"<html>", b""])
@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 530, 599])
@pytest.mark.parametrize("renting", [False, True])
def test_an_outage_or_a_limit_proves_nothing_and_may_be_asked_again(status, content, renting):
    assert proves_nothing(raised(status, content))
    assert meaning(status, content, renting=renting) is UnknownOutcome


@pytest.mark.parametrize("content", NOT_JSON)
@pytest.mark.parametrize("status", [200, 400, 404, 410, 418])
def test_an_answer_that_is_no_json_object_is_not_the_services_and_proves_nothing(status, content):
    assert proves_nothing(raised(status, content))
    assert meaning(status, content) is UnknownOutcome


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectionError("no route"),
        requests.exceptions.ChunkedEncodingError("cut off"),
        requests.exceptions.JSONDecodeError("nothing", "", 0),
        KeyError("instances"),
        AttributeError("'list' object has no attribute 'get'"),
        TypeError("'NoneType' object is not subscriptable"),
    ],
)
def test_what_the_sdk_stumbles_over_proves_nothing(error):
    assert proves_nothing(error)
    assert type(error_of(*answer_of(error), "asking")) is UnknownOutcome


def test_an_error_that_is_not_the_sdks_is_not_asked_again():
    assert not proves_nothing(RuntimeError("a fault of ours"))


@pytest.mark.parametrize(
    ("status", "content", "renting", "kind"),
    [
        (401, b"", False, KeyRefused),
        (403, b"<html>", False, KeyRefused),
        (404, refusal("auth_error", "Invalid user key"), False, KeyRefused),
        (400, refusal("insufficient_credit"), True, ProviderRefused),
        (402, b"", True, ProviderRefused),
        (404, refusal("no_such_instance"), False, NoSuchInstance),
        (404, refusal("invalid_args", "error 404/3603: no_such_ask Instance type"), True, OfferGone),
        (410, refusal("no_such_ask"), True, OfferGone),
        (400, refusal("bid_too_low"), True, OfferGone),
        (400, refusal("invalid_price"), True, OfferGone),
        (400, refusal("invalid_args", "the author of this image is unknown"), True, ProviderError),
        (400, refusal("invalid_args", "this port is forbidden"), True, ProviderError),
        (400, refusal("invalid_args", "no credit card address, unbalanced braces"), True, ProviderError),
    ],
)
def test_a_refusal_is_known_by_its_code_and_status_and_never_by_its_words(status, content, renting, kind):
    assert not proves_nothing(raised(status, content))
    assert meaning(status, content, renting=renting) is kind


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"success": False, "error": "bid_too_low", "new_contract": 5}, OfferGone),
        ({"success": False, "error": "odd", "new_contract": 5}, OfferGone),
        ({"success": False, "error": "insufficient_credit"}, ProviderRefused),
        ({"success": False, "error": "invalid_args", "msg": "image is missing"}, ProviderError),
        ({"success": True}, UnknownOutcome),
        ({"hello": "world"}, UnknownOutcome),
        ({}, UnknownOutcome),
    ],
)
def test_a_reply_of_200_without_a_machine_is_judged_by_its_code(body, kind):
    assert type(error_of(None, body, "renting", renting=True)) is kind


def test_no_credit_is_no_matter_of_patience():
    assert not isinstance(error_of(402, {}, "renting"), KeyRefused)


def test_a_reason_is_quoted_without_the_key(monkeypatch):
    monkeypatch.setenv("VAST_API_KEY", "secretkey")

    text = str(error_of(400, {"error": "invalid_args", "msg": "key secretkey"}, "asking"))

    assert "secretkey" not in text
    assert "HTTP 400 (invalid_args: key <VAST_API_KEY>)" in text


@pytest.mark.parametrize(
    ("shown", "state"),
    [
        ({}, "running"),
        ({"status_msg": "0 errors, running"}, "running"),
        *(({"actual_status": one}, "booting") for one in (None, "created", "loading", "rebooting", "restarting")),
        *(({"actual_status": one}, "away") for one in ("stopped", "frozen", "offline", "a new word")),
        *(({"intended_status": one}, "away") for one in ("stopped", "frozen")),
        ({"actual_status": "exited", "intended_status": "stopped"}, "away"),
        ({"actual_status": "loading", "intended_status": "stopped"}, "away"),
        ({"actual_status": "exited", "min_bid": 0.3, "dph_total": 0.2}, "away"),
        ({"actual_status": "exited", "min_bid": 0.1, "dph_total": 0.2}, "failed"),
        ({"actual_status": "exited", "min_bid": 0.3, "dph_total": 0.2, "is_bid": False}, "failed"),
        ({"actual_status": "exited"}, "failed"),
        ({"actual_status": "unknown"}, "failed"),
        ({"actual_status": "loading", "min_bid": 0.3, "dph_total": 0.2}, "booting"),
        ({"actual_status": "created", "status_msg": "OCI runtime create failed"}, "failed"),
        (
            {"actual_status": "exited", "intended_status": "stopped", "status_msg": "Error: outbid, pull stopped"},
            "away",
        ),
    ],
)
def test_the_states_that_a_row_shows(shown, state):
    assert instance_of(ROW | shown).state == state


@pytest.mark.parametrize("name", ["id", "actual_status", "intended_status"])
def test_a_row_without_its_states_proves_nothing(name):
    row = {key: value for key, value in ROW.items() if key != name}

    with pytest.raises(UnknownOutcome, match="does not say whether instance"):
        instance_of(row)
