"""`ups launch --provider ssh` as it is typed, against real sshd and W&B on loopback: from a host to a trained model."""

import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from harness.chaos import remote
from harness.chaos.remote import WANDB_KEY, newest_status, sets_in
from harness.commands import command
from harness.emulators.sshd import lan
from harness.emulators.wandb.server import WandbServer, client_environment

LONG, SHORT = (("--set", f"stages.operator.steps_per_epoch={steps}") for steps in (100_000, 1200))
SSH = ("--provider", "ssh", "--hosts", "gpu1,gpu2", "--disk", "8")


class Desk:
    """One user's terminal, two machines of theirs, and a W&B."""

    def __init__(self, scratch, net, wandb):
        self.net, self.wandb, self.at = net, wandb, scratch / "work"
        self.at.mkdir()
        given = client_environment(wandb.url, scratch, WANDB_KEY) | {"UPS_SSH_CONFIG": str(net.config)}
        self.environment = remote.environment_in(scratch) | given
        self.type_ups = command("-m", "flows.cli", **self.environment)
        self.controllers = []

    def type(self, *words):
        return self.type_ups(*words, cwd=self.at)

    def launch(self, *words):
        """In a process of its own."""
        with (self.at / "launch.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", "launch", *remote.ARGUMENTS, *SSH, "--poll-s", "1", *words],
                cwd=self.at, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.controllers.append(process)
        return process

    def said(self):
        return (self.at / "launch.log").read_text("utf-8")

    def wait(self, until, within_s=240):
        deadline = time.monotonic() + within_s
        while not until():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.2)

    def trains(self, host):
        return any("checkpoints uploaded" in log for log in host.logs()) and sets_in(self.wandb) > 0

    def living(self):
        return [pid for host in self.net.hosts.values() for pid in host.living()]

    def end(self):
        for process in self.controllers:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()


def files_with(secret, *roots):
    found = [path for root in roots for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in found if secret.encode() in path.read_bytes()]


def command_lines():
    """What everybody on this machine can read of every process."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.read_bytes().decode("utf-8", "replace")


@pytest.fixture
def desk(tmp_path):
    with WandbServer() as wandb, lan(tmp_path / "lan") as net:
        for name in ("gpu1", "gpu2"):
            net.add(name).use_python(sys.executable)
        desk = Desk(tmp_path, net, wandb)
        try:
            yield desk
        finally:
            desk.end()


@pytest.mark.slow
def test_a_training_goes_from_controller_to_controller_and_from_host_to_host_and_leaves_nothing(desk):
    one, other = desk.net.hosts.values()
    first = desk.launch(*SHORT)
    desk.wait(lambda: desk.trains(one))
    first.send_signal(signal.SIGKILL)
    first.wait()
    alive = desk.living()

    second = desk.launch(*SHORT)
    desk.wait(lambda: "going on with instance gpu1-1" in desk.said())
    one.has_disk(0)  # so that it is not chosen again
    one.reboot()
    desk.wait(lambda: desk.trains(other))
    code = second.wait(600)

    assert alive
    assert code == 0, desk.said()
    assert "instance gpu1-1 was taken away" in desk.said() or "gpu1: has 0.0 GB free" in desk.said()
    assert {record["status"] for record in newest_status(desk.wandb)["stages"].values()} == {"completed"}
    assert desk.living() == []
    assert files_with(WANDB_KEY, desk.at, desk.net.root) == []


@pytest.mark.slow
def test_what_a_user_types_beside_a_launch_finds_its_host_without_being_told(desk):
    [one, _] = desk.net.hosts.values()
    launch = desk.launch(*LONG)
    desk.wait(lambda: desk.trains(one))

    typed = {
        words: desk.type(*words.split()) for words in ("launches", "logs", "ssh --print", "instances --provider ssh")
    }
    keys_in_sight = [words for words in command_lines() if WANDB_KEY in words]
    stopped = desk.type("stop")

    assert {words: done.returncode for words, done in typed.items()} == dict.fromkeys(typed, 0), typed
    assert "gpu1-1" in typed["launches"].stdout
    assert "checkpoints uploaded" in typed["logs"].stdout
    assert typed["ssh --print"].stdout.split() == ["ssh", "-F", str(desk.net.config), "--", "gpu1"]
    assert "1 instances, 0.000 USD/h" in typed["instances --provider ssh"].stdout
    assert keys_in_sight == []
    assert stopped.returncode == 0, stopped.stderr
    assert launch.wait(60) != 0
    assert desk.living() == []
    assert "checkpoints uploaded" in desk.type("logs").stdout


def test_a_dry_run_asks_the_hosts_and_starts_nothing(desk):
    for host in desk.net.hosts.values():
        host.has_gpus("NVIDIA A100-SXM4-80GB")

    done = desk.type("launch", "--config", "configs/smoke.yaml", "--set", "runtime.device=auto", *SSH, "--dry-run")

    assert done.returncode == 0, done.stderr
    assert "Offer gpu1: 1 x NVIDIA A100-SXM4-80GB, gpu1" in done.stdout
    assert desk.living() == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--provider", "ssh"), "no host is named; name your machines: --hosts gpu1,me@gpu2:2222, UPS_HOSTS, or one"),
        (("--provider", "ssh", "--hosts=-oProxyCommand=x"), "is no host; write [USER@]HOST[:PORT]"),
        (("--provider", "local", "--hosts", "gpu1"), "--hosts: --provider local has machines of its own"),
        ((*SSH, "--set", "runtime.device=auto"), "gpu1: has no GPU that nvidia-smi shows; name another"),
        ((*SSH, "--disk", "4000"), "GB free of the 4000 wanted"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_started(desk, words, said):
    done = desk.type("launch", *remote.ARGUMENTS, *words, "--dry-run")

    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert desk.living() == []
