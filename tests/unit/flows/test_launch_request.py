"""A launch's request: it holds what is trained, and is given flat, as users schedule it."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from flows.cli.main import main
from flows.requests.flat import flag_fields
from flows.requests.job import configs_of
from flows.requests.launch import TRAIN, LaunchRequest
from flows.requests.launch_checks import asked_by, is_new, require_same_launch
from flows.requests.train import TrainRequest, first_fault
from tasks.services.rental.journal import Journal
from tasks.services.rental.limits import Limits
from tasks.services.rental.provider import MachineSpec
from ups_models.errors import BadInput

SCHEDULED = {
    "config": "configs/smoke.yaml",
    "set": ["latent.dim=8"],
    "stage": "operator",
    "resume_from_wandb": "p/r1",
    "resume_mode": "must",
    "run_dir": "launches",
    "max_price": 0.25,
}


def refused(given):
    with pytest.raises(ValidationError) as raised:
        LaunchRequest.model_validate(given)
    return first_fault(raised.value)


def test_what_users_schedule_is_sorted_into_the_training_and_its_launch():
    request = LaunchRequest.model_validate(SCHEDULED)

    assert request.train == TrainRequest(
        config=Path("configs/smoke.yaml"),
        set=("latent.dim=8",),
        stage="operator",
        resume_from_wandb="p/r1",
        resume_mode="must",
    )
    assert (request.run_dir, request.machine().max_usd_per_hour) == (Path("launches"), 0.25)


def test_a_launch_is_new_where_no_run_is_resumed_and_none_was_left_open(tmp_path):
    request = LaunchRequest(run_dir=tmp_path)
    resumed = LaunchRequest.model_validate({**SCHEDULED, "run_dir": tmp_path})

    assert (is_new(request), is_new(resumed)) == (True, False)
    Journal(request.journal_path).note("began", job={"run": "p/r1"})
    assert not is_new(request)


def test_a_launch_that_goes_on_is_of_the_same_provider_and_trains_the_same(tmp_path):
    given = {"config": "configs/smoke.yaml", "run_dir": tmp_path, "provider": "local"}
    request = LaunchRequest.model_validate(given)
    journal = Journal(request.journal_path)
    journal.note("began", job={"run": "p/r1"}, provider="local", asked=asked_by(request))

    require_same_launch(request, journal)
    with pytest.raises(BadInput, match=r"rents from local: launch with that --provider .* or end it first: ups stop"):
        require_same_launch(LaunchRequest.model_validate({**given, "provider": "vast"}), journal)
    with pytest.raises(BadInput, match="trains another config, stage or code than this command asks for"):
        require_same_launch(LaunchRequest.model_validate({**given, "set": ["seed=5"]}), journal)


def test_flat_and_nested_are_the_same_request():
    train = {name: value for name, value in SCHEDULED.items() if name in TRAIN}
    rest = {name: value for name, value in SCHEDULED.items() if name not in TRAIN}

    nested = LaunchRequest.model_validate({"train": train, **rest})

    assert nested == LaunchRequest.model_validate(SCHEDULED)
    assert LaunchRequest(train=TrainRequest(config=Path("configs/smoke.yaml"))).train.config == Path(
        "configs/smoke.yaml"
    )


def test_what_is_written_is_flat_and_read_again():
    request = LaunchRequest.model_validate(SCHEDULED)

    written = request.model_dump(mode="json")

    assert written.items() >= SCHEDULED.items()
    assert LaunchRequest.model_validate(written) == request


def test_without_a_word_the_large_config_is_trained():
    assert LaunchRequest().train.config == Path("configs/burgers_32dim.yaml")
    assert LaunchRequest.model_validate({"stage": "operator"}).train.config == Path("configs/burgers_32dim.yaml")


def test_the_form_of_the_server_is_flat_and_offers_the_providers():
    schema = LaunchRequest.model_json_schema()
    properties = schema["properties"]

    assert set(TRAIN) < set(properties)
    assert "train" not in properties
    assert "$defs" not in schema
    assert schema["additionalProperties"] is False
    assert properties["config"]["default"] == "configs/burgers_32dim.yaml"
    assert properties["stage"]["enum"][0] == "all"
    assert properties["provider"]["enum"][:4] == ["vast", "runpod", "ssh", "local"]


def test_every_flag_is_a_field_with_the_default_that_the_request_has():
    request = LaunchRequest().model_dump()

    assert {name: field.default for name, field in flag_fields(LaunchRequest)} == request
    assert dict(flag_fields(TrainRequest)) == TrainRequest.model_fields


def test_each_default_has_one_home():
    request = LaunchRequest()

    assert (request.machine(), request.limits()) == (MachineSpec(), Limits())


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"stage": "none"}, "--stage: Input should be"),
        ({"set": [1]}, "--set: "),
        ({"latent": 3}, "--latent: Extra inputs"),
        ({"force_train": True}, "--force-train: Extra inputs"),
        ({"train": {"run_dir": "x"}}, "run_dir: has no meaning on a rented machine"),
        ({"train": "configs/smoke.yaml"}, "Input should be a valid dictionary"),
        ({"resume_mode": "must"}, "name the run with --resume-from-wandb"),
        ({"max_price": 0}, "--max-price: "),
    ],
)
def test_what_cannot_be_asked_for_is_named_by_its_flag(given, named):
    assert named in refused(given)


def test_a_provider_that_there_is_not_is_refused_with_those_that_there_are():
    with pytest.raises(BadInput, match=r"--provider aws: no such provider; choose one of vast, runpod, ssh, local"):
        LaunchRequest.model_validate({"provider": "aws"})


def test_the_commands_of_machines_ask_the_provider_that_is_named(tmp_path, capsys):
    where = ("--run-dir", str(tmp_path))

    codes = [main(["instances", "--provider", name, *where]) for name in ("local", "aws")]

    printed = capsys.readouterr()
    assert codes == [0, 2]
    assert printed.out == "no instances\n"
    assert printed.err.count("\n") == 1
    assert "--provider: invalid choice: 'aws' (choose from 'vast', 'runpod', 'ssh', 'local')" in printed.err


def test_never_may_be_said_where_no_run_is_named():
    new = {"resume_from_wandb": "", "resume_mode": "never"}

    assert LaunchRequest.model_validate(new) == LaunchRequest()
    assert LaunchRequest.model_validate({**new, "resume_from_wandb": "r1"}).train.resume_mode == "never"


@pytest.mark.parametrize(
    ("given", "shutdown"),
    [({}, "always"), ({"keep_on_failure": True}, "success"), ({"auto_shutdown": False}, "never")],
)
def test_when_a_machine_destroys_itself(given, shutdown):
    assert LaunchRequest.model_validate(given).shutdown == shutdown


def test_one_stage_alone_is_not_evaluated():
    config = {"config": "configs/smoke.yaml"}

    everything = configs_of(LaunchRequest.model_validate(config).train)[1]
    alone = configs_of(LaunchRequest.model_validate({**config, "stage": "operator"}).train)[1]

    assert (set(everything), set(alone)) == ({"small_eval", "full_eval"}, set())
