"""What a user of rented machines types all day, as it is typed, against Vast.ai's emulator and W&B on loopback."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from harness.chaos import remote
from harness.chaos.remote import VAST_KEY, WANDB_KEY
from harness.commands import command
from harness.emulators.vast.emulator import VastEmulator
from harness.emulators.wandb.server import WandbServer, client_environment
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status

SMOKE = ("--config", "configs/smoke.yaml")


def status_in(root):
    return read_status(RunDir.of(root, root / "checkpoints").status)


# ------------------------------------------------------------------------------------------------------------- ups pull


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tracked_pipeline):
    """A finished run that W&B has."""
    root = tmp_path_factory.mktemp("trained")
    done = tracked_pipeline(*SMOKE, cwd=root)
    assert done.returncode == 0, done.stderr
    return root


def test_what_is_pulled_is_accepted_by_status_and_report_and_has_nothing_left_to_do(trained, tracked_ups, tmp_path):
    record = status_in(trained).wandb

    done = tracked_ups("pull", record.id, "--run-dir", "here", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert f"Checkpoints: ckpt-{record.id}:v" in done.stdout
    assert f"Report: report-{record.id}:v" in done.stdout
    assert status_in(tmp_path / "here").evaluations == status_in(trained).evaluations
    shown = tracked_ups("status", "here", "--plan", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "Training Complete:        ✅ Yes" in shown.stdout
    assert record.id in shown.stdout
    reported = tracked_ups("report", "--run-dir", "here", cwd=tmp_path)
    assert reported.returncode == 0, reported.stderr


def test_a_run_of_wandb_is_predicted_with_by_its_name_alone(trained, tracked_ups, tmp_path):
    record = status_in(trained).wandb
    np.savez(tmp_path / "u0.npz", u0=np.sin(np.arange(64.0)))
    flags = ("--input", "u0.npz", "--steps", "3", "--output")

    there = tracked_ups("predict", f"{record.entity}/{record.project}/{record.id}", *flags, "there.npz", cwd=tmp_path)
    here = tracked_ups("predict", str(trained), *flags, "here.npz", cwd=tmp_path)

    assert there.returncode == 0, there.stderr
    assert here.returncode == 0, here.stderr
    assert (tmp_path / "there.npz").read_bytes() == (tmp_path / "here.npz").read_bytes()


def test_a_run_that_does_not_exist_is_one_line(tracked_ups, tmp_path):
    done = tracked_ups("pull", "no-such-run", cwd=tmp_path)

    assert done.returncode == 2
    assert "WandB run not found" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_key_nothing_is_asked(ups, tmp_path):
    done = ups("pull", "some-run", cwd=tmp_path)

    assert done.returncode == 2
    assert "ups pull needs W&B online" in done.stderr


# --------------------------------------------------------------------------------------------------- beside a launch


class Day:
    """A cloud, a W&B, and one user's terminal."""

    def __init__(self, scratch, cloud, wandb):
        self.scratch, self.cloud, self.wandb = scratch, cloud, wandb
        given = client_environment(wandb.url, scratch, WANDB_KEY) | {"VAST_URL": cloud.url}
        self.environment = remote.environment_in(scratch) | given
        self.ups = command("-m", "flows.cli", **self.environment)
        self.at = scratch / "work"
        self.at.mkdir()
        self.pid = 0

    def type(self, *words, at=None):
        return self.ups(*words, cwd=at or self.at)

    def start(self, *words):
        """A command that goes on, in another terminal."""
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *words],
            cwd=self.at, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def launch(self, *words):
        """In the background, until its machine trains."""
        long = ("--set", "stages.operator.steps_per_epoch=100000", "--poll-s", "1", "--max-price", "1", "--detach")
        done = self.type("launch", *remote.ARGUMENTS, *long, *words)
        assert done.returncode == 0, done.stderr
        self.pid = int(done.stdout.split()[1])
        self.wait(lambda: any("checkpoints uploaded" in text for text in self.logs()) and self.has_rows())

    def again(self):
        """The launch, if a test has ended it."""
        if not any(one.state == "running" for one in self.cloud.live()):
            self.launch("--resume-from-wandb", run_of(self), "--resume-mode", "must")

    def logs(self):
        return [one.log_path.read_text("utf-8") for one in self.cloud.live() if one.log_path.exists()]

    def has_rows(self):
        return any("operator/step" in run.summary for run in self.wandb.runs.values())

    def wait(self, until, within_s=300):
        deadline = time.monotonic() + within_s
        while not until():
            log = self.at / "launch.log"
            assert time.monotonic() < deadline, log.read_text("utf-8") if log.exists() else "too late"
            time.sleep(0.2)

    def end(self):
        """The controller is gone, and with it all that it rents."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        self.wait(lambda: not alive(self.pid))


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    """A launch in the background that would train for hours."""
    scratch = tmp_path_factory.mktemp("day")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (
        WandbServer() as wandb,
        VastEmulator(
            scratch / "cloud", api_key=VAST_KEY, instance_path=path, instance_env={"OMP_NUM_THREADS": "1"}
        ) as cloud,
    ):
        cloud.default_market()
        day = Day(scratch, cloud, wandb)
        try:
            day.launch()
            yield day
        finally:
            day.end()


def alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text("utf-8").rpartition(")")[2].split()[0] != "Z"


def run_of(day):
    [name] = day.wandb.runs
    return name.rpartition("/")[2]


def test_a_launch_is_listed_with_stage_step_machine_and_cost(day):
    shown = day.type("launches")

    assert shown.returncode == 0, shown.stderr
    head, row = shown.stdout.splitlines()
    assert head.split() == ["run", "state", "stage", "step", "machine", "USD", "since"]
    name, state, stage, step, machine, usd, *_ = row.split()
    assert (name.rpartition("/")[2], state, stage) == (run_of(day), "running", "operator")
    assert int(step) > 0
    assert machine == str(day.cloud.live()[0].id)
    assert float(usd) >= 0


def test_a_launch_of_another_folder_is_listed_by_its_machine(day, tmp_path):
    shown = day.type("launches", at=tmp_path)

    assert f"{run_of(day)[:40]}" in shown.stdout
    assert "elsewhere" in shown.stdout


@pytest.mark.parametrize("named", ["nothing", "run", "instance"])
def test_the_log_of_a_machine_is_read_from_another_terminal(day, named):
    target = {"nothing": [], "run": [run_of(day)], "instance": [str(day.cloud.live()[0].id)]}[named]

    shown = day.type("logs", *target)

    assert shown.returncode == 0, shown.stderr
    assert "checkpoints uploaded" in shown.stdout


def test_a_log_is_read_from_another_folder_by_the_run(day, tmp_path):
    shown = day.type("logs", run_of(day), at=tmp_path)

    assert shown.returncode == 0, shown.stderr
    assert "checkpoints uploaded" in shown.stdout


@pytest.mark.parametrize(
    "words", [("logs", "no-such-run"), ("logs", "999999999"), ("logs", "--provider", "local", "x")]
)
def test_what_is_not_there_is_one_line(day, words):
    done = day.type(*words)

    assert done.returncode == 2
    assert "`ups launches` lists them" in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_was_spent_is_shown_by_launch_machine_and_day_beside_the_credit(day):
    shown = {by: day.type("cost", "--by", by) for by in ("launch", "machine", "day")}

    assert [done.returncode for done in shown.values()] == [0, 0, 0], shown
    assert run_of(day) in shown["launch"].stdout
    assert f"{day.cloud.live()[0].id} (RTX 4090)" in shown["machine"].stdout
    assert len(shown["day"].stdout.splitlines()) >= 5
    assert re.search(r"^Credit: (99|100)\.\d\d USD by vast$", shown["launch"].stdout, re.MULTILINE)


@pytest.mark.parametrize("named", [True, False])
def test_the_command_to_log_in_is_printed(day, named):
    machine = day.cloud.live()[0]

    done = day.type("ssh", *([str(machine.id)] if named else []), "--print")

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ssh -F none ")
    assert done.stdout.endswith(f"-p {machine.ssh_port} root@127.0.0.1\n")


def test_a_machine_that_nobody_can_log_in_to_is_one_line(day):
    done = day.type("ssh")

    assert done.returncode == 1
    assert "ssh could not log in" in done.stderr.splitlines()[-1]


def test_no_such_instance_to_log_in_to_is_one_line(day):
    done = day.type("ssh", "999999999", "--print")

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_a_second_launch_of_the_run_is_refused_and_names_the_first(day, tmp_path):
    done = day.type("launch", *remote.ARGUMENTS, "--resume-from-wandb", run_of(day), at=tmp_path)

    assert done.returncode == 2, done.stderr
    assert f"process {day.pid} on " in done.stderr
    assert "last heard of" in done.stderr
    assert "--takeover" in done.stderr
    assert len(day.cloud.live()) == 1


def test_a_launch_that_takes_over_goes_on_with_the_machine_and_the_first_ends(day, tmp_path):
    [machine], first = day.cloud.live(), day.pid

    done = day.type(
        "launch", *remote.ARGUMENTS, "--resume-from-wandb", run_of(day), "--takeover", "--detach", "--poll-s", "1",
        "--max-price", "1", at=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    day.pid = int(done.stdout.split()[1])
    day.wait(lambda: not alive(first))
    log = tmp_path / "launch.log"
    day.wait(lambda: f"going on with instance {machine.id}" in log.read_text("utf-8"))
    stopped = day.type("stop", at=tmp_path)

    assert "has taken over; this launch leaves the machines to it" in (day.at / "launch.log").read_text("utf-8")
    assert stopped.returncode == 0, stopped.stderr
    assert str(machine.id) in stopped.stdout
    assert [one.id for one in day.cloud.instances] == [machine.id]
    assert day.cloud.live() == []


def test_a_launch_is_stopped_from_another_terminal_and_its_log_is_followed_to_the_end(day):
    day.again()
    [machine], follower = day.cloud.live(), day.start("logs", "-f", "--every-s", "1")

    try:
        done = day.type("stop")
        followed, errors = follower.communicate(timeout=120)
    finally:
        follower.kill()

    assert done.returncode == 0, done.stderr
    assert f"process {day.pid} on " in done.stdout
    assert f"Destroyed: {machine.id}" in done.stdout
    assert "Spent: 0." in done.stdout
    assert day.cloud.live() == []
    day.wait(lambda: not alive(day.pid))
    assert follower.returncode == 0, errors
    assert "checkpoints uploaded" in followed
    assert "closed" in day.type("launches").stdout.splitlines()[-1]
    kept = day.type("logs")
    assert "checkpoints uploaded" in kept.stdout, kept.stderr


def test_what_has_ended_is_not_stopped_again(day):
    day.end()

    done = day.type("stop")

    assert done.returncode == 2
    assert "its launch has ended" in done.stderr


@pytest.mark.thorough
def test_a_launch_whose_controller_is_dead_is_stopped_too(day):
    day.again()
    os.kill(day.pid, signal.SIGKILL)
    day.wait(lambda: not alive(day.pid))
    [machine] = day.cloud.live()

    listed = day.type("launches")
    done = day.type("stop")

    assert "interrupted" in listed.stdout
    assert done.returncode == 0, done.stderr
    assert f"Destroyed: {machine.id}" in done.stdout
    assert day.cloud.live() == []


@pytest.mark.thorough
def test_a_launch_is_stopped_from_another_folder_by_its_run_and_its_controller_rents_no_more(day, tmp_path):
    day.again()
    first, machines = day.pid, len(day.cloud.instances)

    done = day.type("stop", run_of(day), at=tmp_path)

    assert done.returncode == 0, done.stderr
    assert f"process {first} on " in done.stdout
    assert "Spent: not known here" in done.stdout
    assert day.cloud.live() == []
    day.wait(lambda: not alive(first))
    assert len(day.cloud.instances) == machines
    assert "has taken over" in (day.at / "launch.log").read_text("utf-8")


# ----------------------------------------------------------------------------------------------------- without a launch


def test_where_nothing_was_launched_tables_are_empty_and_the_rest_is_one_line(ups_there, tmp_path):
    listed, cost = ups_there("launches", cwd=tmp_path), ups_there("cost", cwd=tmp_path)

    assert (listed.returncode, listed.stdout) == (0, "no launches\n")
    assert (cost.returncode, "Credit: 100.00 USD by vast" in cost.stdout) == (0, True)
    for words in (["logs"], ["logs", "-f"], ["stop"], ["ssh"]):
        done = ups_there(*words, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "nothing was launched from here" in done.stderr


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)], ids=["launch", "dry run"])
def test_less_credit_than_the_first_hour_costs_rents_nothing(ups_there, cloud, tmp_path, dry_run):
    cloud.set_credit(0.01)

    done = ups_there("launch", *SMOKE, "--set", "runtime.device=cpu", "--poll-s", "1", *dry_run, cwd=tmp_path)

    assert done.returncode == 2, done.stderr
    assert "less than the first hour of the machine costs" in done.stderr
    assert cloud.instances == []


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)], ids=["launch", "dry run"])
def test_a_run_that_is_complete_is_never_rented_for(trained, ups_there, cloud, tmp_path, dry_run):
    record = status_in(trained).wandb

    done = ups_there("launch", *SMOKE, "--resume-from-wandb", record.id, *dry_run, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert f"{record.id} is complete: nothing is rented for it" in done.stdout + done.stderr
    assert cloud.instances == []


@pytest.fixture
def hook():
    """A webhook on loopback: its address, and what it was told."""
    told = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", told
    server.shutdown()
    server.server_close()


def test_a_webhook_and_the_wandb_run_are_told_that_a_launch_gave_up(ups_there, cloud, wandb_server, tmp_path, hook):
    cloud.faults.no_credit = -1
    url, said = hook

    done = ups_there("launch", *SMOKE, "--set", "runtime.device=cpu", "--poll-s", "1", "--notify", url, cwd=tmp_path)

    assert done.returncode == 2, done.stderr
    [told] = said
    assert (told["event"], told["machines"]) == ("bad input", 0)
    assert "no credit" in told["text"]
    [run] = [one for one in wandb_server.store.runs.values() if told["run"].endswith(one.id)]
    assert [(one["title"], one["severity"]) for one in run.alerts] == [("ups launch: bad input", "ERROR")]
    assert VAST_KEY not in str(told)


def test_a_webhook_that_anybody_could_read_is_refused(ups_there, tmp_path):
    done = ups_there("launch", *SMOKE, "--notify", "http://example.org/hook", cwd=tmp_path)

    assert done.returncode == 2
    assert "--notify" in done.stderr
    assert "https://" in done.stderr
