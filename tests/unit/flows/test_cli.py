"""The command line: what it lists, what its help says, and one line with exit code 2 for what it does not know."""

import argparse
import inspect
import os
import re
import signal
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from pkgutil import iter_modules
from unittest.mock import patch

import pytest

import flows.cli.commands
from flows.cli.arguments import require_writable
from flows.cli.main import COMMANDS, build_parser
from flows.cli.runner import platform_caveat, run_flow
from flows.requests.flat import flag_fields
from flows.requests.launch import LaunchRequest
from flows.requests.train import TrainRequest
from ups_models.errors import BadInput, Preempted, TrainingDiverged, UPSError


def words(text):
    """The text without its line breaks."""
    return " ".join(text.split())


def refusal(done):
    """The one line of a command that must exit with 2."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_help_lists_every_command_with_its_summary(ups, tmp_path):
    done = ups("--help", cwd=tmp_path)

    assert done.returncode == 0
    assert [name for name, command in COMMANDS.items() if f"{name} {command.summary}" not in words(done.stdout)] == []


def test_every_command_is_one_module_that_adds_its_flags_and_runs():
    modules = {module.name for module in iter_modules(flows.cli.commands.__path__)}

    assert modules == set(COMMANDS)
    for name in COMMANDS:
        module = import_module(f"flows.cli.commands.{name}")
        assert list(inspect.signature(module.add).parameters) == ["parser"]
        assert list(inspect.signature(module.run).parameters) == ["arguments"]


def actions_of(parser):
    """Every argument of a parser, with those of the commands below it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from actions_of(below)


BELOW = {"data": ("generate", "info", "upload"), "config": ("show", "diff", "docs")}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_every_default_and_every_choice(command, ups, tmp_path):
    below = [[command, name] for name in BELOW[command]] if command in BELOW else [[command]]
    shown = words(" ".join(ups(*path, "--help", cwd=tmp_path).stdout for path in below))

    for action in actions_of(build_parser(command)):
        if isinstance(action, argparse._SubParsersAction):
            continue
        assert action.help, action
        assert not action.choices or "{" + ",".join(action.choices) + "}" in shown, action
        if action.default not in (None, False, argparse.SUPPRESS, []):
            value = f"{action.default:g}" if isinstance(action.default, float) else str(action.default)
            assert f"(default: {value})" in shown, action


@pytest.mark.parametrize(("command", "schema"), [("train", TrainRequest), ("launch", LaunchRequest)])
def test_help_shows_the_default_of_every_field_of_a_request(command, schema, ups, tmp_path):
    shown = words(ups(command, "--help", cwd=tmp_path).stdout)

    for name, field in flag_fields(schema):
        assert f"--{name.replace('_', '-')}" in shown
        if field.default not in (None, False, ()):
            value = "yes" if field.default is True else str(field.default)
            assert words(f"{field.description} (default: {value})") in shown


@pytest.mark.parametrize("field", ["stage", "resume_mode", "device"])
def test_a_choice_of_a_request_is_shown_and_anything_else_refused(field, ups, tmp_path):
    flag = f"--{field.replace('_', '-')}"

    done = ups("train", flag, "nonsense", cwd=tmp_path)

    assert f"argument {flag}: invalid choice: 'nonsense' (choose from " in refusal(done)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "; did you mean train?; see `ups --help`"),
        (["train", "--auto-resmue"], "unrecognized arguments: --auto-resmue; did you mean --auto-resume?"),
        (["--nonsense"], "the following arguments are required: COMMAND"),
        (["data"], "the following arguments are required: COMMAND; see `ups data --help`"),
        (["data", "generat"], "(choose from 'generate', 'info', 'upload'); did you mean generate?"),
        (["status", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["train", "--auto-resume", "--force-train"], "--auto-resume and --force-train contradict each other"),
        (["train", "--config", "nowhere.yaml"], "nowhere.yaml: no such config file"),
        (["launch", "--disk", "much"], "--disk: Input should be a valid number"),
        (["deploy", "--retry-after", "-1"], "'-1' is no finite number above zero"),
        (["watch", "--every", "often"], "'often' is no finite number above zero"),
        (["destroy"], "name an instance, or --all-mine"),
        (["destroy", "--provider", "local", "7"], "instance 7: is none of ours"),
        (["evaluate", "--config", "configs/smoke.yaml"], "name a checkpoint to evaluate: --operator FILE"),
        (["report", "--run-dir", "nowhere"], "holds no run; name the folder of a run"),
        (["data", "generate", "darcy2d", "--nu", "1", "--out", "u.hdf5"], "--nu: darcy2d has no nu; give --beta"),
        (["data", "generate", "darcy2d", "--nt", "5", "--out", "u.hdf5"], "darcy2d has steady states: leave out --nt"),
        (["data", "generate", "ks1d", "--out", "u.npz"], "--out u.npz: data are written as HDF5; name the file *.h5"),
        (
            ["data", "generate", "gray_scott2d", "--f", ".03", "--parameter", "F=.05", "--out", "u.h5"],
            "--f and --parameter F: are the same; give one of them",
        ),
        (["evaluate", "--diffusion", "a.pt"], "samples what the operator leaves out: name its --operator FILE too"),
        (["data", "info", "u.hdf5"], "u.hdf5: no such file"),
        (
            ["launches", "--run-dir", "nowhere"],
            "--run-dir nowhere: is no folder; name one in which something was launched",
        ),
        (["cost", "--run-dir", "nowhere"], "--run-dir nowhere: is no folder"),
        (["launch", "--gpu", ""], "--gpu: is not written as it has to be (given: ''); --help says how"),
        (["sync", "--config", "nowhere.yaml"], "nowhere.yaml: no such config file"),
    ],
)
def test_what_cannot_be_understood_is_one_line_and_exit_code_2(arguments, expected, ups, tmp_path):
    message = refusal(ups(*arguments, cwd=tmp_path))

    assert expected in message
    assert message.startswith("ups: ")
    assert "Namespace" not in message
    assert list(tmp_path.iterdir()) == []


def test_without_a_command_there_is_help(ups, tmp_path):
    done = ups(cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert [name for name in COMMANDS if not re.search(rf"^ +{name}\b", done.stdout, re.MULTILINE)] == []


def test_the_version_is_that_of_the_package(ups, tmp_path):
    assert ups("--version", cwd=tmp_path).stdout == f"ups-pipeline {version('ups-pipeline')}\n"


def test_a_file_that_cannot_be_opened_is_named_with_exit_code_2(ups, tmp_path):
    (tmp_path / "checkpoints").write_text("a file in the way", encoding="utf-8")

    assert "checkpoints" in refusal(ups("status", cwd=tmp_path))


def test_a_file_is_refused_where_none_can_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")

    require_writable(tmp_path / "new" / "folder" / "u.hdf5")
    with pytest.raises(BadInput, match="is a folder; name a file in it"):
        require_writable(tmp_path)
    with pytest.raises(BadInput, match=r"cannot be written; choose another folder for u\.hdf5"):
        require_writable(tmp_path / "file" / "u.hdf5")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_no_machine_is_rented_and_none_destroyed(ups, tmp_path):
    local = ["--provider", "local"]

    assert ups("instances", *local, cwd=tmp_path).stdout == "no instances\n"
    assert ups("destroy", "--all-mine", *local, cwd=tmp_path).stdout == "no instances\n"


def test_a_data_file_is_generated_and_described(ups, tmp_path):
    shape = ("--n", "3", "--nx", "16", "--nt", "3")
    made = ups("data", "generate", "advection1d", *shape, "--out", "new/a.hdf5", cwd=tmp_path)
    shown = ups("data", "info", "new/a.hdf5", cwd=tmp_path)

    assert (made.returncode, made.stdout) == (0, "new/a.hdf5\n")
    assert "new/a.hdf5: advection1d, 3 samples, beta 0.1" in shown.stdout
    assert "grid 16, 3 times, dt 1" in shown.stdout
    assert "duplicate trajectories: 0, NaN: 0, Inf: 0" in shown.stdout


@pytest.fixture
def somewhere():
    """No address of a server; environment and signal handlers are as before afterwards."""
    handler = signal.getsignal(signal.SIGTERM)
    with patch.dict(os.environ, PREFECT_API_URL="nowhere"):
        yield
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.usefixtures("somewhere")
def test_the_result_of_a_flow_is_text():
    assert run_flow(lambda: None, "a/b", plainly=lambda request: str(Path(request)), stopped="") == "a/b"


@pytest.mark.usefixtures("somewhere")
@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, lambda: signal.raise_signal(signal.SIGTERM)])
def test_a_flow_that_a_signal_ends_is_preempted(stop):
    def flow(_request):
        raise stop()

    with pytest.raises(Preempted, match="run the same command") as caught:
        run_flow(lambda: None, None, plainly=flow, stopped="run the same command")

    assert caught.value.exit_code == 75


@pytest.mark.usefixtures("somewhere")
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TrainingDiverged("operator: the loss is nan"), "operator: the loss is nan"),
        (ValueError("first line\nsecond line"), "ValueError: first line; set UPS_LOG=debug for the traceback"),
        (ValueError(), "ValueError: ; set UPS_LOG=debug for the traceback"),
    ],
)
def test_a_flow_that_fails_is_one_line_and_exit_code_1(error, expected):
    def flow(_request):
        raise error

    with pytest.raises(UPSError) as caught:
        run_flow(lambda: None, None, plainly=flow, stopped="")

    assert (str(caught.value), caught.value.exit_code) == (expected, 1)


@pytest.mark.usefixtures("somewhere")
def test_what_is_no_server_is_named_in_one_warning_and_refused_where_one_is_required(caplog):
    os.environ["PREFECT_API_URL"] = "http://user:secret@127.0.0.1:9/api"

    assert run_flow(lambda: None, "a/b", plainly=str, stopped="") == "a/b"
    with pytest.raises(BadInput) as caught:
        run_flow(lambda: None, "a/b", plainly=str, stopped="", require_server=True)

    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith("http://127.0.0.1:9/api: no Prefect server answers (")
    assert said.endswith("; this run goes on without Prefect's record")
    assert str(caught.value).endswith("; nothing was done, because of --require-server")
    assert "secret" not in f"{said} {caught.value}"


def test_another_system_than_linux_is_told_what_is_not_promised_there():
    caveat = platform_caveat("darwin")

    assert platform_caveat("linux") == ""
    assert caveat.startswith("darwin is not Linux: ")
    assert "locks" in caveat
    assert "child processes" in caveat
    assert "\n" not in caveat
