"""The form of train-pipeline in Prefect's UI, as its server checks it."""

import json
from pathlib import Path

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import is_valid_schema, validate
from pydantic import ValidationError

from flows.pipeline import train_pipeline
from flows.requests.attempts import without_earlier
from flows.requests.train import TrainRequest

SCHEMA = parameter_schema(train_pipeline).model_dump_for_openapi()
PARAMETERS = without_earlier(SCHEMA)


def form():
    return SCHEMA["definitions"]["TrainRequest"]["properties"]


def refused_by_server(**request):
    return [str(error.message) for error in validate({"request": request}, SCHEMA)]


def refused(parameters):
    return [str(error.message) for error in validate(parameters, PARAMETERS)]


def test_it_offers_the_shipped_configs_and_takes_any_path():
    choice = form()["config"]["anyOf"][0]["enum"]

    assert {"configs/burgers_32dim.yaml", "configs/quickstart.yaml", "configs/smoke.yaml"} < set(choice)
    assert choice == sorted(choice)
    assert form()["small_eval_config"]["anyOf"][0]["enum"] == ["configs/full_eval.yaml", "configs/small_eval.yaml"]
    for config in (*choice, "elsewhere/mine.yaml"):
        assert refused_by_server(config=config) == []


def test_it_has_one_mode_in_the_place_of_three_switches():
    assert form()["mode"]["enum"] == ["resume", "retrain", "evaluate only"]
    assert {"auto_resume", "force_train", "skip_training"} & form().keys() == set()
    assert refused_by_server(mode="restart") != []


@pytest.mark.parametrize(
    ("mode", "switch"), [("resume", "auto_resume"), ("retrain", "force_train"), ("evaluate only", "skip_training")]
)
def test_a_mode_is_a_switch_and_decides_over_those_of_an_earlier_schedule(mode, switch):
    request = TrainRequest.model_validate({"mode": mode, "auto_resume": True})

    assert request == TrainRequest.model_validate({switch: True})


@pytest.mark.parametrize("switch", ["auto_resume", "force_train", "skip_training"])
def test_schedules_made_earlier_are_accepted(switch):
    assert refused_by_server(config="configs/smoke.yaml", **{switch: True}) == []
    assert getattr(TrainRequest.model_validate({switch: True}), switch)


def test_what_is_no_field_is_refused_by_the_server_and_by_us():
    assert refused_by_server(auto_resumes=True) != []
    with pytest.raises(ValidationError):
        TrainRequest.model_validate({"mode": "restart"})
    with pytest.raises(ValidationError):
        TrainRequest.model_validate({"auto_resumes": True})


def test_it_names_no_flag_of_the_command_line():
    is_valid_schema(SCHEMA)

    assert "--" not in json.dumps(form())


def test_an_empty_mode_is_none():
    assert TrainRequest.model_validate({"mode": None}) == TrainRequest()
    assert TrainRequest(config=Path("configs/smoke.yaml")).auto_resume is False


def test_what_counts_attempts_is_one_group_at_the_end():
    assert list(PARAMETERS["properties"]) == ["request", "attempts"]
    assert refused({"attempts": {"attempt": 2, "chain": "abc", "max_attempts": 7, "max_attempts_per_day": 3}}) == []
    assert refused({"attempts": {"attempt": 0}}) == ["0 is less than the minimum of 1"]


def test_attempts_beside_the_group_are_checked_as_those_in_it_and_others_refused():
    assert refused({"attempt": 2, "chain": None, "max_attempts": 7, "max_attempts_per_day": 3}) == []
    assert refused({"attempt": 501}) == ["501 is greater than the maximum of 500"]
    assert refused({"attemp": 2}) != []
