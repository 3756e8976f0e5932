"""A flow run as one of a chain: its name, its request, its number, its final state."""

import logging
import platform
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext

from flows import PACKAGES
from flows.pipeline import train_pipeline
from flows.prefect import chain
from flows.prefect.chain import (
    below_runs,
    chain_run_of,
    checked,
    ended,
    log_to_prefect,
    remote_name,
    reported_when_back,
    run_name,
)
from flows.prefect.earlier import host_label
from flows.requests.attempts import Attempts, TrainingAttempts
from flows.requests.train import TrainRequest
from tasks.services.run.attempts import Duplicate, GaveUp
from ups_models.errors import BadInput


@pytest.fixture(autouse=True)
def _no_rented_machine(monkeypatch):
    monkeypatch.delenv("CONTAINER_ID", raising=False)


@pytest.fixture
def deployed(prefect_api, monkeypatch):
    """This process is a run that a deployment made; yields the server and the run's id."""
    identity = str(uuid4())
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", str(uuid4()))
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", identity)
    return prefect_api, identity


def run_flow(request, **parameters) -> Any:
    """Its final state, of the flow as a plain function."""
    return train_pipeline.fn(request, **parameters)


def run_with(**parameters):
    known: dict[str, Any] = {"parameters": parameters, "flow_run": FlowRun(flow_id=uuid4())}
    return FlowRunContext.model_construct(**known)


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({}, "quickstart · attempt 1 · "),
        ({"request": {"config": "a/b.yaml"}, "attempt": 3}, "b · attempt 3 · "),
        ({"request": {"config": "a/b.yaml"}, "attempts": {"attempt": 3}, "attempt": None}, "b · attempt 3 · "),
        ({"attempts": TrainingAttempts(attempt=2), "request": None}, "quickstart · attempt 2 · "),
        ({"request": {"config": "a/b.yaml", "run_dir": "/runs/seven"}}, "b in seven · attempt 1 · "),
        ({"request": TrainRequest(run_dir=Path("runs/a"))}, "quickstart in a · attempt 1 · "),
    ],
)
def test_a_run_is_named_after_its_config_its_folder_its_number_and_its_host(parameters, named):
    with run_with(**parameters):
        assert run_name() == named + platform.node()


def test_a_remote_training_is_named_after_its_config_and_its_provider():
    with run_with(request={"config": "c.yaml", "provider": "local"}, attempt=2):
        assert remote_name() == "c on local · attempt 2"


def test_a_rented_machine_is_named_by_its_number(monkeypatch):
    monkeypatch.setenv("CONTAINER_ID", "12345")

    assert host_label() == "vast:12345"


def test_a_request_is_taken_as_it_is_or_validated():
    request = TrainRequest(stage="operator")

    assert checked(TrainRequest, request) is request
    assert checked(TrainRequest, {"stage": "operator"}) == request
    with pytest.raises(BadInput, match="request: --stage: Input should be 'all', 'operator'"):
        checked(TrainRequest, {"stage": "operater"})


def test_a_run_that_no_deployment_made_is_in_no_chain():
    assert chain_run_of(Attempts()) is None


@pytest.mark.parametrize(("given", "chain"), [(None, None), ("abc", "abc")])
def test_a_deployed_run_begins_a_chain_or_goes_on_with_its_own_and_is_tagged(deployed, given, chain):
    server, identity = deployed

    run = chain_run_of(TrainingAttempts(chain=given, attempt=2))

    assert run is not None
    assert run.chain == (chain or identity[:8])
    assert (run.run_id, run.number, run.most, run.most_per_day) == (identity, 2, 100, 30)
    assert server.told == [(f"/flow_runs/{identity}", {"tags": [f"chain:{run.chain}"]})]


@pytest.mark.parametrize(("error", "name"), [(GaveUp("too many"), "GaveUp"), (Duplicate("again"), "Duplicate")])
def test_a_run_that_its_chain_does_not_need_is_cancelled_with_the_reason(error, name):
    state = ended(error)

    assert (state.type, state.name, state.message) == ("CANCELLED", name, str(error))


def test_our_lines_are_logged_under_a_worker_and_a_level_that_was_set_stays(monkeypatch):
    loggers = [logging.getLogger(name) for name in PACKAGES]
    for logger, level in zip(loggers, (logging.NOTSET, logging.DEBUG, logging.NOTSET), strict=True):
        monkeypatch.setattr(logger, "level", level)

    log_to_prefect()

    assert [logger.level for logger in loggers] == [logging.INFO, logging.DEBUG, logging.INFO]


def test_a_flow_that_is_asked_for_nonsense_ends_as_bad_input_which_no_automation_restarts(here):
    state = run_flow({"config": "nowhere.yaml"})

    assert (state.type, state.name) == ("FAILED", "BadInput")
    assert "nowhere.yaml: no such config file" in state.message
    assert list(here.iterdir()) == []


def test_a_chain_that_is_too_long_gives_up_before_the_run_is_looked_at(deployed, here):
    for given in ({"attempts": {"attempt": 6, "max_attempts": 5}}, {"attempt": 6, "max_attempts": 5}):
        state = run_flow({"config": "nowhere.yaml"}, **given)

        assert (state.type, state.name) == ("CANCELLED", "GaveUp")
        assert "5 attempts did not finish it" in state.message


def test_attempts_that_are_none_are_bad_input():
    state = run_flow({"config": "configs/smoke.yaml"}, attempts={"attempt": 0})

    assert (state.type, state.name) == ("FAILED", "BadInput")
    assert "attempts: --attempt: Input should be greater than or equal to 1" in state.message


@pytest.mark.usefixtures("deployed")
def test_a_relative_run_directory_lies_below_the_runs_of_the_worker(monkeypatch):
    nowhere = below_runs(Path("a"))
    monkeypatch.setenv("UPS_RUNS", "/runs")

    assert nowhere == Path("a")
    assert below_runs(Path("a")) == Path("/runs/a")
    assert below_runs(Path("/elsewhere/a")) == Path("/elsewhere/a")


def test_a_run_from_a_terminal_lies_where_it_was_asked_for(monkeypatch):
    monkeypatch.setenv("UPS_RUNS", "/runs")

    assert below_runs(Path("a")) == Path("a")


def test_a_run_that_has_ended_waits_for_its_server_to_say_so(deployed, monkeypatch, caplog):
    api, _ = deployed
    answers = [httpx.ConnectError("refused"), httpx.ConnectError("refused"), httpx.Response(200, json=[])]
    api.refusals["filter"] = lambda: answers.pop(0)
    monkeypatch.setattr(chain, "SERVER_PAUSE_S", 0.001)

    with reported_when_back():
        pass

    assert answers == []
    assert "this run has ended, and waits up to 3600 s to report that" in caplog.text


def test_a_run_that_cannot_be_tagged_is_a_run_all_the_same(deployed, caplog):
    api, identity = deployed
    api.refusals[identity] = httpx.ConnectError("refused")

    chain_run = chain_run_of(Attempts(chain="chain"))

    assert chain_run is not None
    assert chain_run.run_id == identity
    assert "the run is not tagged as one of chain:chain" in caplog.text
