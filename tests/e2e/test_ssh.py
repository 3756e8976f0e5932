"""One's own machines through the real ssh, against real sshd on loopback: what is asked, concluded, and never shown."""

import os
import time
from pathlib import Path

import pytest

from harness.emulators.sshd import lan
from tasks.services.rental.machine_log import exit_code_in
from tasks.services.rental.provider import (
    MachineSpec,
    NoOffer,
    NoSuchInstance,
    OfferGone,
    ProviderError,
    UnknownOutcome,
)
from tasks.services.rental.providers.ssh.provider import SshProvider
from tasks.services.rental.providers.ssh.shell import NoAnswer, SystemShell

KEY = "wandbcanary0key0that0nobody0must0ever0find"
ENV = {"WANDB_API_KEY": KEY, "UPS_GENERATION": "1", "UPS_MAX_SECONDS": "600"}
WANTED = MachineSpec(disk_gb=1, needs_gpu=False)
ON_A_GPU = MachineSpec(disk_gb=1)
SCRIPT = "#!/usr/bin/env bash\necho begun\nsleep 60\n"
PREFIX = "ups-r1-00000000-g"


@pytest.fixture
def net(tmp_path, monkeypatch):
    with lan(tmp_path / "lan") as net:
        monkeypatch.setenv("UPS_SSH_CONFIG", str(net.config))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("UPS_HOSTS", raising=False)
        yield net


@pytest.fixture
def gpu1(net):
    return net.add("gpu1")


@pytest.fixture
def ssh(net, gpu1, tmp_path):
    provider = SshProvider(tmp_path / "run", SystemShell(), pause=lambda _: None)
    provider.use_hosts("gpu1")
    return provider


def rent(provider, generation=1, script=SCRIPT, wanted=WANTED):
    offer = provider.search(wanted)[0]
    return provider.rent(offer, wanted, label=f"{PREFIX}{generation}", onstart=script, env=ENV)


def wait(until, within_s=60):
    deadline = time.monotonic() + within_s
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ended(provider, instance):
    return lambda: provider.describe(instance).state != "running"


# --------------------------------------------------------------------------------------------------------------- search


def test_every_host_is_an_offer_at_the_price_that_its_owner_states(net, ssh):
    for name in ("gpu2", "gpu3"):
        net.add(name)
    ssh.use_hosts("gpu1=0.3,gpu2 gpu3=0.1")

    offers = ssh.search(WANTED)

    assert [(offer.id, offer.usd_per_hour) for offer in offers] == [("gpu2", 0.0), ("gpu3", 0.1), ("gpu1", 0.3)]


def test_a_gpu_that_another_program_uses_is_not_given_out(ssh, gpu1):
    gpu1.has_gpus("NVIDIA L40S", "NVIDIA L40S", busy=(0,))

    instance = rent(ssh, script="echo sees $CUDA_VISIBLE_DEVICES; sleep 60", wanted=ON_A_GPU)
    wait(lambda: "sees" in ssh.logs(instance))

    assert "sees GPU-1\n" in ssh.logs(instance)
    with pytest.raises(NoOffer, match="gpu1: its GPUs are in use by a run of "):
        ssh.search(ON_A_GPU)


def test_the_driver_says_which_cuda_it_runs(ssh, gpu1):
    gpu1.has_gpus("NVIDIA L40S")

    [offer] = ssh.search(ON_A_GPU)

    assert (offer.gpu, offer.num_gpus, offer.cuda) == ("NVIDIA L40S", 1, 12.5)


def refuses(host):
    host.refuse()


def has_another_key(host):
    host.stop()
    host.change_key()
    host.start()


def is_off(host):
    host.stop()


def is_full(host):
    host.has_disk(0)


def has_an_old_python(host):
    for name in ("python3", "python3.13", "python3.12", "python3.11", "uv"):
        host.program(name, "#!/bin/sh\nexit 1\n")


def belongs_to_another(host):
    (host.home / ".ups").mkdir()
    os.chown(host.home / ".ups", 65534, 65534)


def says_something_first(host):
    host.program("bash", '#!/bin/sh\necho Welcome to gpu1; echo ups-begin; exec /bin/bash "$@"\n')


def has_no_bash(host):
    host.program("bash", "#!/bin/sh\nexit 127\n")


def takes_no_commands(host):
    host.program("bash", "#!/bin/sh\necho This account is not available.\nexit 1\n")


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (refuses, r"gpu1: refuses the login; `ssh -F \S+ gpu1` must work without a password"),
        (has_another_key, r"gpu1: its host key is not the one that is known; if it was installed anew, `ssh-keygen -R"),
        (is_off, r"gpu1: does not answer \(.*Connection refused"),
        (is_full, r"gpu1: has 0.0 GB free of the 1 wanted; free some, link ~/.ups to a larger disk, or lower --disk"),
        (has_an_old_python, r"gpu1: has no Python 3.11 or newer that can make environments; install uv there"),
        (has_no_bash, r"gpu1: has no bash"),
        (takes_no_commands, r"gpu1: its login runs no commands"),
        pytest.param(
            belongs_to_another,
            r"gpu1: ~/.ups is nobody's, and root cannot write it",
            marks=pytest.mark.skipif(os.getuid() != 0, reason="only root gives a folder away"),
        ),
    ],
)
def test_what_is_wrong_with_a_host_is_one_sentence_and_the_others_are_used(net, ssh, gpu1, happens, said, caplog):
    happens(gpu1)

    with pytest.raises(NoOffer, match=said) as raised:
        ssh.search(WANTED)
    net.add("gpu2")
    if happens is has_another_key:  # `add` has it known again
        happens(gpu1)
    ssh.use_hosts("gpu1,gpu2")
    offers = ssh.search(WANTED)

    assert "\n" not in str(raised.value)
    assert [offer.id for offer in offers] == ["gpu2"]
    assert "gpu1: " in caplog.text


def test_a_host_that_nobody_knows_is_named_with_the_remedy(ssh):
    ssh.use_hosts("no-such-host.invalid")

    with pytest.raises(
        NoOffer, match=r"no-such-host.invalid: no host of this name is known; correct it, or name it in"
    ):
        ssh.search(WANTED)


def test_a_host_whose_key_was_never_seen_is_for_its_owner_to_look_at(net, ssh):
    (net.root / "known_hosts").write_text("", encoding="utf-8")

    with pytest.raises(NoOffer, match=r"gpu1: its host key is not known here; log in once by hand: `ssh -F \S+ gpu1`"):
        ssh.search(WANTED)


def test_what_a_login_prints_first_does_not_confuse(ssh, gpu1):
    says_something_first(gpu1)

    instance = rent(ssh)

    assert ssh.describe(instance).state == "running"


# ----------------------------------------------------------------------------------------------------- rent and destroy


def test_a_run_lives_on_without_the_connection_and_is_found_from_elsewhere(net, ssh, gpu1, tmp_path):
    instance = rent(ssh)

    gpu1.stop()
    gpu1.start()
    elsewhere = SshProvider(tmp_path / "another", SystemShell())
    elsewhere.use_hosts("gpu1")
    found = elsewhere.list_instances("ups-")

    assert [(one.id, one.label, one.state) for one in found] == [(instance, f"{PREFIX}1", "running")]
    elsewhere.destroy(instance)
    assert ssh.describe(instance) is None
    assert gpu1.living() == []


def test_no_key_is_in_a_file_or_in_a_command_line(ssh, gpu1, tmp_path):
    instance = rent(ssh, script="echo has ${#WANDB_API_KEY} characters; sleep 60")
    wait(lambda: "characters" in ssh.logs(instance))

    files = [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    lines = [path for path in Path("/proc").glob("[0-9]*/cmdline") if KEY in readable(path)]

    assert f"has {len(KEY)} characters" in ssh.logs(instance)
    assert (files, lines) == ([], [])


def readable(path):
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""


def test_destroying_ends_what_left_its_session_too_and_removes_everything(ssh, gpu1):
    instance = rent(ssh, script="setsid sleep 600 & (trap '' TERM; sleep 600) & sleep 600")
    wait(lambda: len(gpu1.living()) >= 5)

    ssh.destroy(instance)

    assert gpu1.living() == []
    assert list(gpu1.home.glob(".ups/*/instances/*")) == []
    ssh.destroy(instance)  # once more is no error


def test_a_run_that_has_ended_leaves_its_log_and_no_process_until_it_is_destroyed(ssh, gpu1):
    instance = rent(ssh, script="setsid sleep 600 & echo ups-onstart: exit 3 generation 1; exit 3")
    wait(ended(ssh, instance))

    found = ssh.describe(instance)

    assert (found.state, found.detail) == ("failed", "ended with exit code 3")
    assert gpu1.living() == []
    assert "exit 3 generation 1" in ssh.logs(instance)
    ssh.destroy(instance)
    assert ssh.describe(instance) is None


def test_a_run_that_was_killed_is_not_taken_for_one_whose_machine_is_gone(ssh, gpu1):
    instance = rent(ssh)

    gpu1.kill_all()

    found = ssh.describe(instance)
    assert (found.state, found.detail) == ("failed", "was killed")


def test_a_run_that_cannot_even_begin_has_an_exit_code(ssh, gpu1):
    gpu1.program("timeout", "#!/bin/sh\nexit 125\n")

    instance = rent(ssh)
    wait(ended(ssh, instance))

    assert ssh.describe(instance).detail == "ended with exit code 125"
    assert exit_code_in(ssh.logs(instance).splitlines(), generation=1) == 125


def test_a_machine_that_was_started_anew_has_lost_its_run_and_takes_another(ssh, gpu1):
    instance = rent(ssh)

    gpu1.reboot()

    assert ssh.describe(instance) is None
    assert ssh.list_instances("ups-") == []
    again = rent(ssh, generation=2)
    assert (instance, again) == ("gpu1-1", "gpu1-2")
    assert [path.name for path in gpu1.home.glob(".ups/*/instances/*")] == ["2"]


def test_after_a_lost_answer_the_label_finds_the_run_and_asking_again_starts_no_second(ssh, gpu1):
    offer = ssh.search(WANTED)[0]
    gpu1.cut_next()

    with pytest.raises(UnknownOutcome):
        ssh.rent(offer, WANTED, label=f"{PREFIX}1", onstart=SCRIPT, env=ENV)
    gpu1.stop()
    gpu1.start()
    found = ssh.list_instances(PREFIX)
    same = ssh.rent(offer, WANTED, label=f"{PREFIX}1", onstart=SCRIPT, env=ENV)

    assert [one.id for one in found] == [same] == ["gpu1-1"]


def test_two_launches_that_saw_the_same_host_free_do_not_both_get_it(ssh, tmp_path):
    other = SshProvider(tmp_path / "other", SystemShell())
    other.use_hosts("gpu1")
    offer = other.search(WANTED)[0]
    rent(ssh)

    with pytest.raises(OfferGone, match="gpu1: was taken by a run of "):
        other.rent(offer, WANTED, label="ups-r2-00000000-g1", onstart=SCRIPT, env=ENV)


def test_the_environment_is_made_once_a_host_unless_an_installation_was_cut_off(ssh, gpu1):
    marks = []
    for generation, script in enumerate(("exit 0", 'touch "$UPS_INSTALLED"', "true"), start=1):
        instance = rent(ssh, generation, f'ls "$VIRTUAL_ENV/kept"; touch "$VIRTUAL_ENV/kept"; {script}')
        wait(ended(ssh, instance))
        marks.append("kept\n" in ssh.logs(instance))
        ssh.destroy(instance)

    assert marks[1:] == [False, True]


def test_what_is_no_instance_of_a_host_is_refused(ssh):
    with pytest.raises(NoSuchInstance, match="instance 4711: is none of a host"):
        ssh.describe("4711")


# ------------------------------------------------------------------------------------------------------------ transport


def test_silence_proves_nothing(ssh, gpu1):
    instance = rent(ssh)
    gpu1.stop()

    with pytest.raises(UnknownOutcome):
        ssh.describe(instance)
    with pytest.raises(UnknownOutcome):
        ssh.list_instances(PREFIX)
    with pytest.raises(ProviderError, match=r"gpu1-1 is not known to have ended .*; end it with `ups destroy gpu1-1`"):
        ssh.destroy(instance)
    assert ssh.logs(instance) == ""
    assert ssh.list_instances("ups-another-") == []


def test_a_slow_host_is_not_waited_for_forever(ssh, gpu1):
    gpu1.slow(20)

    with pytest.raises(NoAnswer, match="gpu1: did not answer within 1 s"):
        ssh.shell.ask(ssh.offered["gpu1"], "list", within_s=1)


def test_the_login_is_the_users_own(net, ssh):
    instance = rent(ssh)

    assert ssh.ssh_address(instance).command == ("ssh", "-F", str(net.config), "--", "gpu1")
