"""The emulated Vast.ai, driven by the real SDK."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from harness import PYTHONPATH
from harness.emulators.images import GPU_LOG, build_image
from harness.emulators.processes import MARK
from harness.emulators.switches import BROKEN, DROP, EVERY
from harness.emulators.vast.emulator import VastEmulator

ROOT = Path(__file__).resolve().parents[3]
SLEEPERS = "echo started $CONTAINER_ID; setsid nohup sleep 300 >/dev/null 2>&1 & sleep 300"


class Clock:
    def __init__(self):
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now

    def hours(self, hours: float) -> None:
        self.now += hours * 3600


def wait_until(true, timeout_s: float = 60.0):
    deadline = time.monotonic() + timeout_s
    while not (value := true()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return value


def processes_with(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / "config"))
    monkeypatch.delenv("VAST_URL", raising=False)
    monkeypatch.delenv("VAST_API_KEY", raising=False)


@pytest.fixture
def emulator(tmp_path):
    with VastEmulator(tmp_path / "cloud") as running:
        yield running
    assert not processes_with(running._mark)


@pytest.fixture
def clocked(tmp_path):
    clock = Clock()
    with VastEmulator(tmp_path / "cloud", clock=clock) as running:
        yield running, clock
    assert not processes_with(running._mark)


def sdk(emulator: VastEmulator, **settings: Any):
    from vastai import VastAI

    return VastAI(**{"api_key": emulator.api_key, "server_url": emulator.url} | settings)


def rent(vast, offer, **changes: Any) -> int:
    usual = {"image": "x", "disk": 20, "ssh": True, "direct": True, "onstart_cmd": SLEEPERS, "bid_price": 0.2}
    return vast.create_instance(offer.id, **usual | changes)["new_contract"]


def refusal(call) -> tuple[int, dict[str, Any]]:
    import requests

    with pytest.raises(requests.HTTPError) as caught:
        call()
    answer = caught.value.response
    assert answer is not None
    return answer.status_code, answer.json()


def running(emulator: VastEmulator, number: int, *, starts: int = 1):
    one = emulator.instance(number)
    wait_until(lambda: one.state == "running" and one.starts == starts and len(one.processes()) >= 2)
    return one


def http(emulator: VastEmulator, method: str, path: str, body=None, key: str | None = None):
    headers = {"Authorization": f"Bearer {emulator.api_key if key is None else key}"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(emulator.url + path, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


# ---------------------------------------------------------------------- search


def test_search_filters_orders_and_limits_as_the_sdk_asks(emulator):
    emulator.default_market()
    vast = sdk(emulator)
    query = "gpu_name=RTX_4090 num_gpus=1 cuda_vers>=12.8 reliability>=0.9 inet_down>128 duration>1"

    found = vast.search_offers(query, type="interruptible", order="dph_total")

    assert [it["dph_total"] for it in found] == [0.40, 0.44]
    assert len(vast.search_offers(query, order="dph_total-", limit=1)) == 1
    assert vast.search_offers(query, order="dph_total-", limit=1)[0]["dph_total"] == 0.44


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("gpu_ram>=48", 3),
        ("geolocation in [DE,NL]", 3),
        ("gpu_name in [RTX_3090,A100_SXM4]", 2),
        ("gpu_name not in [RTX_4090]", 4),
        ("num_gpus!=1", 2),
        ("dph<0.2", 0),
        ("verified=any", 12),
        ("verified=false", 1),
    ],
)
def test_search_operators(emulator, query, count):
    emulator.default_market()

    assert len(sdk(emulator).search_offers(query)) == count


def test_search_with_a_dict_hides_what_is_rented(emulator):
    emulator.default_market()
    vast = sdk(emulator)
    query = {"gpu_name": {"eq": "RTX 3090"}}
    (offer,) = vast.search_offers(query, type="bid")

    number = vast.create_instance(offer["id"], image="x", disk=10, bid_price=0.1)["new_contract"]
    during = vast.search_offers(query, type="bid"), vast.search_offers(query, type="on-demand")
    vast.destroy_instance(number)

    assert [len(it) for it in during] == [0, 1], "a bid does not keep others from renting on demand"
    assert len(vast.search_offers(query, type="bid")) == 1


def test_search_with_an_unknown_field_is_refused(emulator):
    emulator.default_market()

    assert refusal(lambda: sdk(emulator).search_offers({"gpu_nmae": {"eq": "H100 SXM"}}))[0] == 400


# ---------------------------------------------------------------------- life of an instance


def test_an_instance_runs_its_onstart_with_the_documented_environment_only(emulator, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "canary")
    vast, offer = sdk(emulator), emulator.add_offer(num_gpus=2)
    vast.create_env_var("ACCOUNT_TOKEN", "from-the-account")

    number = rent(vast, offer, onstart_cmd="pwd; env; sleep 300", env={"A": "b c", "-p 80:80": "1"}, label="run-1")
    one = emulator.instance(number)
    log = wait_until(lambda: one.log_path.exists() and "CONTAINER_ID" in (t := one.log_path.read_text()) and t)

    env = dict(line.split("=", 1) for line in log.splitlines()[1:])
    expected = {
        "A": "b c",
        "ACCOUNT_TOKEN": "from-the-account",
        "CONTAINER_ID": str(number),
        "CONTAINER_API_KEY": one.api_key,
        "VAST_CONTAINERLABEL": f"C.{number}",
        "GPU_COUNT": "2",
        "VAST_URL": emulator.url,
        "HOME": str(one.home),
    }
    assert expected.items() <= env.items()
    documented = {"DATA_DIRECTORY", "PUBLIC_IPADDR", "VAST_TCP_PORT_22", "PATH", "TMPDIR", MARK}
    assert env.keys() - expected.keys() - documented <= {"PWD", "SHLVL", "_", "OLDPWD"}
    assert log.splitlines()[0] == str(one.home)
    assert os.getpgid(one.pgid) == one.pgid
    assert one.pgid != os.getpgid(0)
    assert "canary" not in log


def test_rows_have_the_shape_that_the_sdk_wants(emulator):
    vast, offer = sdk(emulator), emulator.add_offer(min_bid=0.15)
    number = rent(vast, offer, env={"A": "1"}, label="run-1")
    running(emulator, number)

    row, (listed,) = vast.show_instance(number), vast.show_instances()

    assert row["extra_env"] == listed["extra_env"] == {"A": "1"}
    assert (row["actual_status"], row["intended_status"], row["cur_state"]) == ("running",) * 3
    assert (row["is_bid"], row["dph_total"], row["min_bid"], row["label"]) == (True, 0.2, 0.15, "run-1")
    assert vast.ssh_url(number).startswith("ssh://root@127.0.0.1:")
    assert vast.label_instance(number, "run-2")["success"]
    assert vast.show_instance(number)["label"] == "run-2"


def test_stop_keeps_the_disk_and_start_runs_onstart_again(emulator):
    vast, offer = sdk(emulator), emulator.add_offer()
    number = rent(vast, offer, onstart_cmd=f"echo once >> here; {SLEEPERS}")
    one = running(emulator, number)

    vast.stop_instance(number)
    stopped, left = vast.show_instance(number), one.processes()
    vast.start_instance(number)
    running(emulator, number, starts=2)

    assert (stopped["actual_status"], stopped["intended_status"], left) == ("stopped", "stopped", [])
    assert (one.home / "here").read_text() == "once\nonce\n"


def test_reboot_keeps_and_recycle_wipes_the_disk(emulator):
    vast, offer = sdk(emulator), emulator.add_offer()
    number = rent(vast, offer, onstart_cmd=f"echo once >> here; {SLEEPERS}")
    one = running(emulator, number)

    assert vast.reboot_instance(number)["success"]
    running(emulator, number, starts=2)
    after_reboot = (one.home / "here").read_text()
    assert vast.recycle_instance(number)["success"]
    running(emulator, number, starts=3)

    assert after_reboot == "once\nonce\n"
    assert (one.home / "here").read_text() == "once\n"


def test_destroy_kills_everything_and_the_instance_is_gone(emulator):
    vast, offer = sdk(emulator), emulator.add_offer()
    one = running(emulator, rent(vast, offer))

    assert vast.destroy_instance(one.id)["success"]

    assert one.processes() == []
    assert (vast.show_instance(one.id), vast.show_instances(), emulator.live()) == (None, [], [])
    assert refusal(lambda: vast.destroy_instance(one.id))[0] == 404
    assert refusal(lambda: vast.stop_instance(one.id))[1]["error"] == "no_such_instance"


@pytest.mark.parametrize(("ssh", "state"), [(True, "running"), (False, "exited")])
def test_only_an_args_container_ends_with_its_command(emulator, ssh, state):
    vast, offer = sdk(emulator), emulator.add_offer()
    how = {"onstart_cmd": "exit 3"} if ssh else {"onstart_cmd": None, "args": ["bash", "-c", "exit 3"]}

    one = emulator.instance(rent(vast, offer, ssh=ssh, direct=ssh, **how))
    wait_until(lambda: one.exit_code == 3)

    assert wait_until(lambda: one.state == state)
    assert vast.show_instance(one.id)["actual_status"] == state
    assert len([it for it in emulator.ledger if it.kind == "gpu" and it.ended_at is None]) == (1 if ssh else 0)


def test_a_missing_command_is_the_instance_s_failure(emulator):
    vast, offer = sdk(emulator), emulator.add_offer()

    one = emulator.instance(rent(vast, offer, ssh=False, direct=False, onstart_cmd=None, args=["no-such-command"]))

    wait_until(lambda: one.state == "exited")
    assert one.exit_code == 127


def test_the_list_is_paged_and_the_old_one_is_gone(emulator):
    vast, offer = sdk(emulator), emulator.add_offer()
    numbers = [rent(vast, offer, onstart_cmd="true", label=f"n{index}") for index in range(30)]

    rows = vast.show_instances()
    page = vast.show_instances_v1({"select_filters": {"label": {"eq": "n7"}}, "limit": 25})

    assert [row["id"] for row in rows] == numbers
    assert [row["id"] for row in page["instances"]] == [numbers[7]]
    assert len([it for it in emulator.requests if it.endpoint == "list"]) == 3
    assert http(emulator, "GET", "/api/v0/instances/")[0] == 410


def test_several_at_once(emulator):
    vast, offers = sdk(emulator), [emulator.add_offer(), emulator.add_offer()]

    vast.create_instances([it.id for it in offers], image="x", disk=10, onstart_cmd=SLEEPERS)
    numbers = [one.id for one in emulator.live()]
    vast.stop_instances(numbers)
    states = {one.state for one in emulator.live()}
    vast.destroy_instances(numbers)

    assert (len(numbers), states, emulator.live()) == (2, {"stopped"}, [])


# ---------------------------------------------------------------------- logs and commands


def test_logs_come_after_a_while_whole_or_in_part(emulator):
    vast, offer = sdk(emulator), emulator.add_offer()
    one = emulator.instance(rent(vast, offer, onstart_cmd="echo one; echo two >&2; echo three"))
    wait_until(lambda: one.exit_code == 0)

    assert vast.logs(one.id) == "one\ntwo\nthree\n"
    assert vast.logs(one.id, tail="1") == "three\n"
    assert vast.logs(one.id, filter="tw") == "two\n"
    assert vast.logs(one.id, daemon_logs=True).startswith("daemon: success")
    result = [it for it in emulator.requests if it.endpoint == "result"]
    assert [it.status for it in result] == [200] * 4


def test_a_result_that_comes_late_is_polled(emulator):
    emulator.faults.result_delay_s = 4.0
    vast, offer = sdk(emulator), emulator.add_offer()
    one = emulator.instance(rent(vast, offer, onstart_cmd="echo one"))
    wait_until(lambda: one.exit_code == 0)

    assert vast.logs(one.id) == "one\n"
    polls = [it.status for it in emulator.requests if it.endpoint == "result"]
    assert (polls[0], polls[-1], polls.count(200)) == (404, 200, 1)


def test_execute_runs_three_commands_inside_the_container_only(emulator, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    vast, offer = sdk(emulator), emulator.add_offer()
    one = emulator.instance(rent(vast, offer, onstart_cmd="touch here"))
    wait_until(lambda: one.exit_code == 0)

    assert vast.execute(one.id, "ls /root") == "here\nonstart.sh\n"
    assert vast.execute(one.id, "rm here") == ""
    assert vast.execute(one.id, "ls") == "onstart.sh\n"
    for forbidden in ("cat onstart.sh", f"rm ../../../{precious.name}", "rm -rf /", "ls " + "x" * 520, ""):
        assert refusal(lambda text=forbidden: vast.execute(one.id, text))[0] == 400
    assert precious.read_text() == "mine"


# ---------------------------------------------------------------------- keys, secrets, the account


def test_account_variables(emulator):
    vast = sdk(emulator)
    vast.create_env_var("TOKEN", "abc-1")

    vast.update_env_var("TOKEN", "abc-2")

    assert vast.show_env_vars() == {"TOKEN": "****"}
    assert vast.show_env_vars(show_values=True) == {"TOKEN": "abc-2"}
    emulator.faults.mask_secrets = True
    assert vast.show_env_vars(show_values=True) == {"TOKEN": "****"}
    vast.delete_env_var("TOKEN")
    assert vast.show_env_vars() == {}
    assert refusal(lambda: vast.delete_env_var("TOKEN"))[0] == 404
    assert refusal(lambda: vast.update_env_var("TOKEN", "x"))[0] == 404
    assert refusal(lambda: vast.create_env_var("TOKEN", "two words"))[0] == 400


@pytest.mark.parametrize("shown", [False, True])
def test_whether_account_variables_show_in_extra_env(emulator, shown):
    emulator.faults.account_env_in_extra_env = shown
    vast, offer = sdk(emulator), emulator.add_offer()
    vast.create_env_var("TOKEN", "abc")

    number = rent(vast, offer, env={"A": "1"}, onstart_cmd="true")

    assert vast.show_instance(number)["extra_env"] == ({"TOKEN": "abc", "A": "1"} if shown else {"A": "1"})


def test_ssh_keys(emulator):
    vast, offer = sdk(emulator), emulator.add_offer()
    number = rent(vast, offer, onstart_cmd="true")

    account_key = vast.create_ssh_key("ssh-ed25519 AAAA me")["key"]["id"]
    attached = vast.attach_ssh(number, "ssh-ed25519 BBBB me")["key"]["id"]

    assert [it["id"] for it in vast.show_ssh_keys()["ssh_keys"]] == [account_key]
    assert vast.detach_ssh(number, str(attached))["success"]
    assert vast.delete_ssh_key(account_key)["success"]
    assert refusal(lambda: vast.attach_ssh(number, "not a key"))[0] == 400


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_key_is_refused(emulator, status):
    emulator.faults.bad_key_status = status

    code, body = refusal(sdk(emulator, api_key="wrong").show_instances)

    assert (code, body["error"]) == (status, "auth_error")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_missing_rights(emulator, status):
    emulator.faults.auth_error = status

    code, body = refusal(sdk(emulator).show_user)

    assert (code, body["error"]) == (status, "auth_error")


@pytest.mark.parametrize("may_get", [False, True])
def test_the_container_s_key_rules_itself_alone(emulator, may_get):
    emulator.faults.container_key_may_get = may_get
    vast, offer = sdk(emulator), emulator.add_offer()
    one, other = (running(emulator, rent(vast, offer)) for _ in range(2))
    inside = sdk(emulator, api_key=one.api_key)

    for forbidden in (
        lambda: inside.destroy_instance(other.id),
        lambda: inside.show_instance(other.id),
        inside.show_instances,
        inside.search_offers,
        lambda: inside.create_env_var("A", "b"),
        lambda: inside.change_bid(one.id, 1.0),
    ):
        assert refusal(forbidden)[0] == 403
    if may_get:
        assert inside.show_instance(one.id)["id"] == one.id
    else:
        assert refusal(lambda: inside.show_instance(one.id))[0] == 403
    assert inside.stop_instance(one.id)["success"]
    wait_until(lambda: one.state == "stopped" and not one.processes())
    assert inside.destroy_instance(one.id)["success"]
    assert refusal(lambda: inside.destroy_instance(one.id))[0] == 401


def test_a_script_destroys_its_own_instance_and_hears_the_answer(emulator):
    vast, offer = sdk(emulator), emulator.add_offer()
    script = (
        'trap \'curl -s -X DELETE -H "Authorization: Bearer $CONTAINER_API_KEY" '
        '"$VAST_URL/api/v0/instances/$CONTAINER_ID/"\' EXIT\nsleep 300 & echo done'
    )

    one = emulator.instance(rent(vast, offer, onstart_cmd=script))

    wait_until(lambda: not one.live and not one.processes())
    assert vast.show_instance(one.id) is None
    assert [it.status for it in emulator.requests if it.endpoint == "destroy"] == [200]


# ---------------------------------------------------------------------- interruptions


@pytest.mark.parametrize("status", ["stopped", "exited"])
@pytest.mark.parametrize("flips", [False, True])
def test_an_outbid_instance_is_killed_and_comes_back_in_the_same_folder(emulator, status, flips):
    emulator.faults.set(outbid_status=status, outbid_flips_intended=flips)
    vast, offer = sdk(emulator), emulator.add_offer(min_bid=0.15)
    one = running(emulator, rent(vast, offer, onstart_cmd=f"echo once >> here; {SLEEPERS}"))

    emulator.preempt(one.id)
    row, left = vast.show_instance(one.id), one.processes()
    emulator.resume(one.id)
    running(emulator, one.id, starts=2)

    assert left == []
    assert (row["actual_status"], row["cur_state"]) == (status, "stopped")
    assert row["intended_status"] == row["next_state"] == ("stopped" if flips else "running")
    assert row["min_bid"] > row["dph_total"]
    assert (one.home / "here").read_text() == "once\nonce\n"
    assert vast.show_instance(one.id)["actual_status"] == "running"


def test_a_falling_price_brings_an_instance_back_by_itself_after_the_delay(clocked):
    emulator, clock = clocked
    emulator.faults.auto_resume_delay_s = 600
    vast, offer = sdk(emulator), emulator.add_offer(machine_id=77, min_bid=0.15)
    one = running(emulator, rent(vast, offer))

    emulator.raise_min_bid(77, 0.3)
    outbid = one.outbid, one.processes()
    emulator.raise_min_bid(offer, 0.2)
    clock.hours(0.1)
    emulator.tick()
    early = one.state
    clock.hours(0.1)
    running(emulator, one.id, starts=2)

    assert outbid == (True, [])
    assert early == "stopped"


def test_without_auto_resume_the_user_has_to_start_it(emulator):
    emulator.faults.auto_resume_delay_s = None
    vast, offer = sdk(emulator), emulator.add_offer(min_bid=0.15)
    one = running(emulator, rent(vast, offer))

    emulator.preempt(one.id)
    vast.start_instance(one.id)
    still_outbid = one.state
    emulator.raise_min_bid(offer, 0.1)
    emulator.tick()
    after_the_drop = one.state
    vast.start_instance(one.id)

    running(emulator, one.id, starts=2)
    assert (still_outbid, after_the_drop) == ("stopped", "stopped")


def test_a_higher_bid_brings_it_back_and_a_lower_one_loses(emulator):
    vast, offer = sdk(emulator), emulator.add_offer(min_bid=0.15)
    one = running(emulator, rent(vast, offer))

    emulator.raise_min_bid(offer, 0.3)
    vast.change_bid(one.id, 0.35)
    running(emulator, one.id, starts=2)
    vast.change_bid(one.id, 0.1)
    lost = one.state
    vast.change_bid(one.id)

    running(emulator, one.id, starts=3)
    assert (lost, one.price) == ("stopped", 0.3)
    assert refusal(lambda: vast.change_bid(one.id, 1000))[1]["error"] == "invalid_price"


def test_a_preemption_may_end_by_itself(emulator):
    vast, offer = sdk(emulator), emulator.add_offer()
    one = running(emulator, rent(vast, offer))

    emulator.preempt(one.id, returns_after_s=0.2)

    running(emulator, one.id, starts=2)
    assert one.price >= offer.min_bid


def test_an_instance_that_the_user_stopped_does_not_come_back(emulator):
    vast, offer = sdk(emulator), emulator.add_offer()
    one = running(emulator, rent(vast, offer))
    emulator.preempt(one.id)

    vast.stop_instance(one.id)
    emulator.raise_min_bid(offer, 0.01)
    emulator.tick()

    assert (one.state, one.starts) == ("stopped", 1)


def test_demand_displaces_a_bid_until_it_is_gone(emulator):
    vast, offer = sdk(emulator), emulator.add_offer()
    bid = running(emulator, rent(vast, offer, bid_price=5.0))

    rival = running(emulator, rent(vast, offer, bid_price=None))
    displaced = bid.outbid
    vast.destroy_instance(rival.id)

    running(emulator, bid.id, starts=2)
    assert displaced
    assert not rival.is_bid
    emulator.displace(bid.id)
    assert bid.outbid
    emulator.resume(bid.id)
    running(emulator, bid.id, starts=3)


def test_only_a_bid_can_be_outbid(emulator):
    number = rent(sdk(emulator), emulator.add_offer(), bid_price=None, onstart_cmd="true")

    with pytest.raises(ValueError, match="on demand"):
        emulator.preempt(number)


def test_a_host_that_is_offline_with_the_job_alive_is_a_zombie_writer(emulator):
    vast, offer = sdk(emulator), emulator.add_offer()
    script = "while sleep 0.05; do echo beat >> beats; done & wait"
    one = running(emulator, rent(vast, offer, onstart_cmd=script))

    wait_until((one.home / "beats").exists)
    emulator.host_offline(one.id, kill=False)
    seen = vast.show_instance(one.id)["actual_status"]
    vast.destroy_instance(one.id)
    before = (one.home / "beats").stat().st_size
    wait_until(lambda: (one.home / "beats").stat().st_size > before)
    emulator.back_online(one.id)

    assert seen == "offline"
    assert one.processes() == []


def test_a_host_that_crashed_starts_the_job_when_it_is_back(emulator):
    vast, offer = sdk(emulator), emulator.add_offer()
    one = running(emulator, rent(vast, offer))

    emulator.host_offline(one.id, kill=True)
    left = one.processes()
    emulator.back_online(one.id)

    running(emulator, one.id, starts=2)
    assert left == []


def test_a_host_that_comes_back_does_not_start_a_job_that_had_ended(emulator):
    vast, offer = sdk(emulator), emulator.add_offer()
    one = emulator.instance(rent(vast, offer, onstart_cmd="true"))
    wait_until(lambda: one.exit_code == 0)

    emulator.host_offline(one.id, kill=False)
    emulator.back_online(one.id)

    assert (one.starts, vast.show_instance(one.id)["actual_status"]) == (1, "running")


# ---------------------------------------------------------------------- faults of renting


def test_a_lost_reply_makes_the_sdk_rent_twice(emulator):
    emulator.faults.lose_reply_to_create = 1
    vast, offer = sdk(emulator), emulator.add_offer()

    number = rent(vast, offer, onstart_cmd="true", label="attempt-1")

    assert [row["label"] for row in vast.show_instances()] == ["attempt-1"] * 2
    assert emulator.live()[1].id == number


def test_a_lost_reply_with_one_instance_per_offer_is_answered_with_no_such_ask(emulator):
    emulator.faults.set(lose_reply_to_create=1, second_create_makes_second_instance=False)
    vast, offer = sdk(emulator), emulator.add_offer()

    code, body = refusal(lambda: rent(vast, offer, onstart_cmd="true"))

    assert (code, "no_such_ask" in body["msg"]) == (404, True)
    assert len(emulator.live()) == 1


def test_a_lost_reply_without_retries_leaves_one_orphan(emulator):
    import requests

    emulator.faults.lose_reply_to_create = 1
    offer = emulator.add_offer()

    with pytest.raises(requests.ConnectionError):
        rent(sdk(emulator, retry=1), offer, onstart_cmd="true")

    assert len(emulator.live()) == 1


@pytest.mark.parametrize(("cancel", "status", "error"), [(False, 404, "invalid_args"), (True, 410, "no_such_ask")])
def test_an_offer_that_is_gone(emulator, cancel, status, error):
    emulator.faults.offer_gone = 1
    vast, offer, other = sdk(emulator), emulator.add_offer(), emulator.add_offer()

    code, body = refusal(lambda: rent(vast, offer, cancel_unavail=cancel))

    assert (code, body["error"], body["ask_id"]) == (status, error, offer.id)
    assert [it["id"] for it in vast.search_offers(type="bid")] == [other.id]


@pytest.mark.parametrize("cancel", [False, True])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("forced", [False, True])
def test_a_low_bid_leaves_a_stopped_instance_unless_cancelled(emulator, cancel, ignored, forced):
    emulator.faults.set(low_bid=int(forced), low_bid_ignores_cancel_unavail=ignored)
    vast, offer = sdk(emulator), emulator.add_offer(min_bid=0.15)

    code, body = refusal(lambda: rent(vast, offer, bid_price=0.2 if forced else 0.1, cancel_unavail=cancel))

    if cancel and not ignored:
        assert (code, emulator.live()) == (410, [])
    else:
        assert code == 400
        assert vast.show_instance(body["new_contract"])["actual_status"] == "stopped"


def test_a_low_bid_may_be_an_error_that_the_sdk_does_not_raise(emulator):
    emulator.faults.low_bid_status = 200
    vast, offer = sdk(emulator), emulator.add_offer(min_bid=0.15)

    said = vast.create_instance(offer.id, image="x", disk=10, bid_price=0.1)

    assert said["success"] is False
    assert said["new_contract"] == emulator.live()[0].id


@pytest.mark.parametrize("code", ["insufficient_credit", "balance_too_low"])
def test_no_credit(emulator, code):
    emulator.faults.no_credit_error_code = code
    vast, offer = sdk(emulator), emulator.add_offer()
    one = running(emulator, rent(vast, offer))

    emulator.set_credit(0)

    assert (one.state, one.processes()) == ("stopped", [])
    assert vast.show_user()["credit"] <= 0
    assert refusal(lambda: rent(vast, offer))[1]["error"] == code
    emulator.set_credit(10)
    emulator.faults.no_credit = 1
    assert refusal(lambda: rent(vast, offer))[1]["error"] == code
    assert rent(vast, offer)


def test_no_credit_and_no_card_destroys(emulator):
    emulator.faults.no_credit_destroys = True
    one = running(emulator, rent(sdk(emulator), emulator.add_offer()))

    emulator.set_credit(-1)

    assert (one.live, one.processes()) == (False, [])


def test_boot_takes_a_while_and_may_never_end(clocked):
    emulator, clock = clocked
    emulator.faults.set(boot_delay_s=60, stuck_loading=1)
    vast, offer = sdk(emulator), emulator.add_offer()
    stuck, good = (emulator.instance(rent(vast, offer)) for _ in range(2))

    first = vast.show_instance(good.id)["actual_status"]
    clock.now += 40
    second = vast.show_instance(good.id)["actual_status"]
    clock.now += 40
    running(emulator, good.id)
    clock.hours(5)
    emulator.tick()

    assert (first, second) == (None, "loading")
    assert vast.show_instance(stuck.id)["actual_status"] == "loading"
    assert emulator.hours(stuck.id) == 0
    assert emulator.hours(good.id) == pytest.approx(5)


def test_an_image_that_fails(emulator):
    emulator.faults.image_fails = EVERY
    vast, offer = sdk(emulator), emulator.add_offer()

    number = rent(vast, offer)
    row = wait_until(lambda: (it := vast.show_instance(number))["actual_status"] == "exited" and it)

    assert "OCI runtime create failed" in row["status_msg"]
    assert emulator.hours() == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"onstart_cmd": "x" * 4001},
        {"env": {"A": "x" * 257}},
        {"label": "x" * 257},
        {"disk": 7},
        {"disk": 1e6},
        {"bid_price": 0.0001},
        {"bid_price": 129},
        {"image": None},
        {"env": {"A": "x\0y"}},
    ],
)
def test_limits_of_a_create(emulator, wrong):
    code, body = refusal(lambda: rent(sdk(emulator), emulator.add_offer(), **wrong))

    assert (code, body["error"]) == (400, "invalid_price" if "bid_price" in wrong else "invalid_args")
    assert emulator.live() == []


def test_the_longest_script_that_fits(emulator):
    vast, offer = sdk(emulator), emulator.add_offer()

    one = emulator.instance(rent(vast, offer, onstart_cmd=": ".ljust(3995, "x") + "\ntrue"))

    wait_until(lambda: one.exit_code == 0)


# ---------------------------------------------------------------------- faults of answers


@pytest.mark.parametrize("header", [False, True])
def test_the_sdk_absorbs_two_refusals_and_raises_the_third(emulator, header):
    emulator.faults.set(retry_after=header, retry_after_s=3.0)
    vast = sdk(emulator)

    emulator.faults.next_status = [429, 429]
    start = time.monotonic()
    vast.show_user()
    took = time.monotonic() - start
    emulator.faults.next_status = [429, 429, 429]
    code, _ = refusal(vast.show_user)

    assert code == 429
    assert (took > 5.9) == header
    assert [it.status for it in emulator.requests] == [429, 429, 200, 429, 429, 429]


def test_a_forced_status_may_wait_for_its_endpoint(emulator):
    emulator.faults.next_status = [("create", 500), ("list", DROP)]
    vast, offer = sdk(emulator), emulator.add_offer()

    assert vast.search_offers(type="bid")
    assert vast.show_instances() == []
    assert refusal(lambda: rent(vast, offer))[0] == 500
    assert [it.status for it in emulator.requests] == [200, 0, 200, 500]


def test_documented_rate_limits_outlast_the_sdk(emulator):
    emulator.faults.rate_limit_scale = 10.0
    vast = sdk(emulator)

    vast.show_instances()

    assert refusal(vast.show_instances)[0] == 429
    assert [it.status for it in emulator.requests] == [200, 429, 429, 429]


def test_a_late_answer_is_a_timeout_that_the_sdk_repeats(emulator):
    import requests

    emulator.faults.answer_delay_s = 0.6
    vast = sdk(emulator)
    vast.client.timeout = 0.2

    with pytest.raises(requests.Timeout):
        vast.show_user()

    wait_until(lambda: len(emulator.requests) == 3)


def test_counted_failures_of_show_and_destroy(emulator):
    vast, offer = sdk(emulator), emulator.add_offer()
    number = rent(vast, offer, onstart_cmd="true")
    emulator.faults.set(show_500_times=1, destroy_fails_times=2)

    codes = [refusal(lambda: vast.show_instance(number))[0]] + [
        refusal(lambda: vast.destroy_instance(number))[0] for _ in range(2)
    ]

    assert codes == [500] * 3
    assert vast.show_instance(number)["id"] == number
    assert vast.destroy_instance(number)["success"]


def test_a_list_that_lies(emulator):
    vast, offer = sdk(emulator), emulator.add_offer()
    rent(vast, offer, onstart_cmd="true")
    emulator.faults.list_empty = 1

    assert vast.show_instances() == []
    assert len(vast.show_instances()) == 1


def test_rows_that_the_sdk_cannot_read(emulator):
    vast, offer = sdk(emulator), emulator.add_offer()
    number = rent(vast, offer, onstart_cmd="true")

    emulator.faults.null_start_date = 2
    for call in (vast.show_instances, lambda: vast.show_instance(number)):
        with pytest.raises(TypeError):
            call()
    emulator.faults.missing_fields = ["extra_env"]
    with pytest.raises(KeyError):
        vast.show_instances()


# ---------------------------------------------------------------------- the bill


def test_disk_costs_until_destroyed_and_the_gpu_only_while_it_runs(clocked):
    emulator, clock = clocked
    vast, offer = sdk(emulator), emulator.add_offer(storage_cost=0.72, min_bid=0.1, duration=1e6)
    one = running(emulator, rent(vast, offer, disk=100, bid_price=0.2))  # 0.1 USD/h of disk

    clock.hours(2)
    emulator.preempt(one.id)
    clock.hours(3)
    emulator.resume(one.id)
    running(emulator, one.id, starts=2)
    clock.hours(1)
    vast.change_bid(one.id, 0.5)
    clock.hours(1)
    vast.destroy_instance(one.id)
    clock.hours(50)

    assert emulator.cost(one.id) == pytest.approx(7 * 0.1 + 3 * 0.2 + 1 * 0.5)
    assert emulator.hours(one.id) == pytest.approx(4)
    assert emulator.cost() == pytest.approx(1.8)
    assert vast.show_user()["credit"] == pytest.approx(100 - 1.8)
    assert [it.kind for it in emulator.ledger] == ["disk", "gpu", "gpu", "gpu"]


@pytest.mark.parametrize("billed", [False, True])
def test_the_bill_of_a_host_that_is_offline(clocked, billed):
    emulator, clock = clocked
    emulator.faults.offline_is_billed = billed
    one = running(emulator, rent(sdk(emulator), emulator.add_offer()))

    clock.hours(1)
    emulator.host_offline(one.id, kill=False)
    clock.hours(1)
    emulator.back_online(one.id)
    clock.hours(1)

    assert emulator.hours() == pytest.approx(3 if billed else 2)


def test_credit_runs_out_and_contracts_end(clocked):
    emulator, clock = clocked
    vast = sdk(emulator)
    long, short = emulator.add_offer(duration=1e9), emulator.add_offer(duration=7200)
    first, second = (running(emulator, rent(vast, it, bid_price=1.0)) for it in (long, short))

    clock.hours(2.5)
    emulator.tick()
    ended = first.state, second.state
    clock.hours(100)
    emulator.tick()

    assert ended == ("running", "stopped")
    assert first.state == "stopped"
    assert emulator.credit() <= 0


@pytest.mark.parametrize("included", [False, True])
def test_whether_dph_total_includes_the_disk(emulator, included):
    emulator.faults.dph_total_includes_disk = included
    vast, offer = sdk(emulator), emulator.add_offer(storage_cost=0.72)

    number = rent(vast, offer, disk=100, onstart_cmd="true")

    assert vast.show_instance(number)["dph_total"] == pytest.approx(0.3 if included else 0.2)


# ---------------------------------------------------------------------- control and ends


def test_another_process_controls_it_over_http(emulator):
    offer = emulator.add_offer(min_bid=0.15)
    one = running(emulator, rent(sdk(emulator), offer))

    assert http(emulator, "POST", "/emulator/preempt", {"id": one.id})[0] == 200
    assert http(emulator, "GET", "/emulator/live")[1][0]["outbid"] is True
    assert http(emulator, "POST", "/emulator/resume", {"id": one.id})[0] == 200
    running(emulator, one.id, starts=2)
    http(emulator, "POST", "/emulator/host_offline", {"id": one.id, "kill": True})
    assert http(emulator, "POST", "/emulator/back_online", {"id": one.id})[0] == 200
    running(emulator, one.id, starts=3)
    http(emulator, "POST", "/emulator/faults", {"boot_delay_s": 9, "next_status": [["user", 500]]})
    assert http(emulator, "GET", "/emulator/faults")[1]["boot_delay_s"] == 9
    assert http(emulator, "GET", "/api/v0/users/current")[0] == 500
    assert http(emulator, "POST", "/emulator/raise_min_bid", {"id": offer.id, "price": 3.0})[0] == 200
    assert http(emulator, "POST", "/emulator/set_credit", {"usd": 5})[0] == 200
    assert http(emulator, "GET", "/emulator/cost")[1]["credit"] == pytest.approx(5, abs=0.01)
    assert http(emulator, "GET", "/emulator/instances")[1][0]["state"] == "stopped"
    assert http(emulator, "POST", "/emulator/add_offer", {"gpu_name": "H100 SXM"})[1]["gpu_name"] == "H100 SXM"
    assert http(emulator, "POST", "/emulator/remove_offer", {"id": offer.id})[0] == 200
    assert len(http(emulator, "GET", "/emulator/offers")[1]) == 1
    assert http(emulator, "GET", "/emulator/requests")[1]
    assert http(emulator, "POST", "/emulator/faults", {"no_such_switch": 1})[0] == 400
    assert http(emulator, "POST", "/emulator/preempt", {"id": 1})[0] == 400
    assert http(emulator, "GET", "/emulator/nothing")[0] == 404
    assert http(emulator, "GET", "/emulator/live", key=one.api_key)[0] == 401


def test_many_lives_in_a_row_leave_no_process_and_no_gap_in_the_bill(emulator):
    vast, offer = sdk(emulator), emulator.add_offer()
    one = running(emulator, rent(vast, offer))

    for starts in range(2, 8):
        emulator.preempt(one.id)
        assert one.processes() == []
        emulator.resume(one.id)
        running(emulator, one.id, starts=starts)

    assert len([it for it in emulator.ledger if it.kind == "gpu"]) == 7
    assert len([it for it in emulator.ledger if it.ended_at is None]) == 2


def test_two_emulators_leave_each_other_s_processes_alone(tmp_path):
    with VastEmulator(tmp_path / "a") as one, VastEmulator(tmp_path / "b") as other:
        first, second = (running(it, rent(sdk(it), it.add_offer())) for it in (one, other))
        wait_until(lambda: len(second.processes()) == 3)

        one.stop()

        assert first.processes() == []
        assert len(second.processes()) == 3
        assert first.id == second.id, "the same seed gives the same ids, and still they are apart"


def test_children_that_hide_in_other_sessions_are_killed_too(emulator):
    script = "for i in 1 2 3; do (setsid setsid nohup bash -c 'sleep 300 & sleep 300' &) ; done; env -i sleep 300"
    one = emulator.instance(rent(sdk(emulator), emulator.add_offer(), onstart_cmd=script))
    before = wait_until(lambda: len(it := one.processes()) >= 11 and it)

    emulator.preempt(one.id)

    assert not [pid for pid in before if Path(f"/proc/{pid}").exists() and pid in one.processes()]
    assert processes_with(one.mark) == []


def child_environment(home: Path) -> dict[str, str]:
    return {"PYTHONPATH": PYTHONPATH, "PATH": os.environ["PATH"], "HOME": str(home)}


def start_program(tmp_path, *more: str):
    environment = {**child_environment(tmp_path), "SHOWN": "1", "HID": "2"}
    command = [sys.executable, "-m", "harness.emulators.vast.emulator", "--root", str(tmp_path / "cloud"), *more]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert program.stdout is not None
    url, key = (program.stdout.readline().strip().partition("=")[2] for _ in range(2))
    return program, url, key


def test_as_a_program_it_serves_until_sigterm_and_leaves_nothing(tmp_path):
    from vastai import VastAI

    program, url, key = start_program(tmp_path, "--pass-env", "SHOWN")
    vast = VastAI(api_key=key, server_url=url)
    offer = vast.search_offers("gpu_name=RTX_4090", type="bid")[0]

    made = vast.create_instance(
        offer["id"], image="x", disk=10, bid_price=0.5, onstart_cmd=f"echo $SHOWN,$HID; {SLEEPERS}"
    )
    number = f"CONTAINER_ID={made['new_contract']}"
    wait_until(lambda: len(processes_with(number)) >= 3)
    log = vast.logs(made["new_contract"])
    program.send_signal(signal.SIGTERM)

    assert program.wait(20) == 0
    assert processes_with(number) == []
    assert log.startswith("1,\n")
    program.stdout.close()


def test_an_emulator_that_is_killed_outright_leaves_nothing_either(tmp_path):
    from vastai import VastAI

    program, url, key = start_program(tmp_path)
    vast = VastAI(api_key=key, server_url=url)
    offer = vast.search_offers("gpu_name=RTX_4090")[0]
    made = vast.create_instance(offer["id"], image="x", disk=10, onstart_cmd=SLEEPERS)
    number = f"CONTAINER_ID={made['new_contract']}"
    wait_until(lambda: len(processes_with(number)) >= 3)

    program.kill()
    program.communicate()

    wait_until(lambda: processes_with(number) == [])


def test_an_interpreter_that_just_ends_leaves_nothing(tmp_path):
    script = f"""
import time
from pathlib import Path
from harness.emulators.vast.emulator import VastEmulator
emulator = VastEmulator(Path({str(tmp_path)!r}))
emulator.start()
one = emulator.create(emulator.add_offer(), price=None, onstart={SLEEPERS!r})
while len(one.processes()) < 3:
    time.sleep(0.02)
print(one.mark)
"""
    environment = child_environment(tmp_path)

    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=120
    )

    assert processes_with(done.stdout.strip()) == []


# ---------------------------------------------------------------------- stumbles


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_is_given_once_and_word_for_word(emulator, name):
    emulator.faults.next_status = [("user", name)]

    def answer():
        wanted = urllib.request.Request(f"{emulator.url}/api/v0/users/current")
        wanted.add_header("Authorization", f"Bearer {emulator.api_key}")
        with urllib.request.urlopen(wanted, timeout=20) as response:
            return response.status, response.read()

    assert answer() == (200, BROKEN[name])
    assert b"credit" in answer()[1]


def test_a_proxy_answers_with_a_page_of_its_own(emulator):
    emulator.faults.set(error_pages=True, next_status=[("user", 520)])
    wanted = urllib.request.Request(f"{emulator.url}/api/v0/users/current")
    wanted.add_header("Authorization", f"Bearer {emulator.api_key}")

    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(wanted, timeout=20)

    assert (raised.value.code, raised.value.read()) == (520, BROKEN["page"])


def test_a_broken_reply_to_a_create_leaves_an_instance(emulator):
    emulator.default_market()
    offer = next(iter(emulator.offers.values()))
    emulator.faults.break_reply_to_create = "strange"

    reply = sdk(emulator).create_instance(id=offer.id, image="i", disk=10, onstart_cmd="sleep 60", ssh=True)

    assert reply == {"hello": "world"}
    assert len(emulator.live()) == 1


def test_rows_may_be_shown_with_other_states_for_a_while(emulator):
    vast, offer = sdk(emulator), emulator.add_offer()
    number = rent(vast, offer)
    emulator.faults.next_rows = [{"actual_status": "restarting"}, {"actual_status": "frozen"}]

    shown = [vast.show_instance(id=number)["actual_status"] for _ in range(3)]

    assert shown[:2] == ["restarting", "frozen"]
    assert shown[2] in ("loading", "running")


def test_a_container_without_processes_is_shown_as_running(emulator):
    vast, offer = sdk(emulator), emulator.add_offer()
    number = rent(vast, offer, onstart_cmd=SLEEPERS)
    one = running(emulator, number)
    wait_until(one.processes)

    emulator.lose_processes(number)

    assert one.processes() == []
    assert vast.show_instance(id=number)["actual_status"] == "running"


def test_what_a_container_runs_stands_still_while_its_script_lives_on(emulator):
    code = "import time\nwhile True: print(1, flush=True); time.sleep(0.01)"
    script = f"{sys.executable} -c '{code}' > work & while sleep 0.01; do echo alive; done"
    number = rent(sdk(emulator), emulator.add_offer(), onstart_cmd=script)
    one = running(emulator, number)
    work = one.home / "work"
    wait_until(lambda: work.exists() and work.stat().st_size)

    emulator.stall(number)
    wait_until(lambda: is_still(work))
    wait_until(lambda: not is_still(one.log_path))
    emulator.stall(number, number=signal.SIGCONT)

    wait_until(lambda: not is_still(work))


def is_still(path: Path) -> bool:
    """Whether a file has not grown for a moment."""
    size = path.stat().st_size
    time.sleep(0.3)
    return path.stat().st_size == size


def test_the_log_of_a_container_need_not_be_that_of_its_script(emulator):
    vast = sdk(emulator)
    number = rent(vast, emulator.add_offer(), onstart_cmd="echo said; sleep 60")
    wait_until(lambda: "said" in running(emulator, number).log_path.read_text("utf-8"))
    emulator.faults.logs_show_onstart = False

    assert "said" not in vast.logs(instance_id=number)


def test_pip_replaces_the_torch_of_an_image_and_then_no_gpu_is_seen(tmp_path):
    image = build_image(tmp_path / "image", torch="2.6.0+cu124")

    def python(*arguments):
        command = ["/usr/bin/env", "python3", *arguments]
        variables = {"PATH": image.path, "HOME": str(tmp_path), **image.environment}
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout

    before = python("-c", "import torch; print(torch.cuda.is_available(), torch.device('cuda', 0))")
    python("-m", "pip", "install", "torch==2.13.0", "h5py")
    after = python("-c", "import h5py, torch; print(torch.cuda.is_available(), torch.device('cuda'))")

    assert before.split()[:2] == ["True", "cpu"]
    assert after.split() == ["False", "cuda"]
    assert (tmp_path / GPU_LOG).read_text("utf-8").split() == ["-c"]
    assert image.torch() == ["2.13.0"]
