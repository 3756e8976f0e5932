"""RunPod through its REST API, against its emulator: what is true only there; test_providers.py has the rest."""

import logging
import time

import pytest

from flows import ROOT
from harness.emulators.runpod.emulator import RunpodEmulator
from tasks.services.rental.provider import (
    Accounted,
    KeyRefused,
    MachineSpec,
    NoOffer,
    OfferGone,
    ProviderError,
    ProviderRefused,
    UnknownOutcome,
)
from tasks.services.rental.providers.runpod import RunpodProvider

KEY = "runpodcanary0key0that0nobody0must0ever0find"
SCRIPT = "#!/usr/bin/env bash\necho begun\nsleep 60\n"
WANTED = MachineSpec(gpus=("RTX_4090",), max_usd_per_hour=0.5, disk_gb=20.5)


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    with RunpodEmulator(tmp_path / "cloud", api_key=KEY) as emulator:
        emulator.default_market()
        monkeypatch.setenv("RUNPOD_URL", f"{emulator.url}/v2")
        monkeypatch.setenv("RUNPOD_API_KEY", KEY)
        yield emulator
        assert emulator.rejected == []


@pytest.fixture
def runpod(cloud):
    return RunpodProvider(pause=lambda _: None)


def rent(runpod, wanted=WANTED, script=SCRIPT, **env):
    return runpod.rent(runpod.search(wanted)[0], wanted, label="ups-r1-g1", onstart=script, env=env)


def waits_for(condition, within_s=20.0):
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


# ---------------------------------------------------------------------- offers


def test_what_a_data_center_has_is_an_offer_the_fullest_first(runpod):
    offers = runpod.search(WANTED)

    assert [offer.region for offer in offers] == ["EU-RO-1", "US-KS-2", "US-TX-3"]
    assert {(offer.gpu, offer.usd_per_hour, offer.is_bid) for offer in offers} == {("RTX 4090", 0.44, False)}


def test_machines_of_others_must_be_asked_for(runpod, cloud):
    offers = runpod.search(MachineSpec(max_usd_per_hour=0.5, verified=False))

    assert (offers[0].region, offers[0].usd_per_hour) == ("EU-SE-1", 0.31)
    number = runpod.rent(offers[0], WANTED, label="ups-r1-g1", onstart=SCRIPT, env={})
    assert cloud.instance(number).shelf.cloud == "COMMUNITY"


def test_countries_narrow_the_offers(runpod):
    offers = runpod.search(MachineSpec(countries=("RO", "CZ"), max_usd_per_hour=0.5))

    assert [offer.region for offer in offers] == ["EU-RO-1"]


def test_several_gpus_and_their_memory_may_be_asked_for(runpod):
    spec = MachineSpec(gpus=("RTX_3090", "H100_SXM", "A100_PCIE"), gpu_ram_gb=80, max_usd_per_hour=3)

    assert [offer.gpu for offer in runpod.search(spec)] == ["A100 PCIe", "H100 SXM"]


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"gpus": ("RTX_4091",)}, "the nearest --gpu it has are RTX_4090"),
        ({"gpus": ("H100",)}, "--gpu H100: RunPod has several; choose from H100_PCIE, H100_SXM"),
        ({"gpu_ram_gb": 48}, r"RTX_4090 \(secure\) has 24 GB \(--gpu-ram\)"),
        ({"countries": ("CZ",)}, r"is free in EU-RO-1, .*\(--region\)"),
        ({"num_gpus": 9}, r"at most 8 in a machine \(--num-gpus\)"),
        ({"gpus": ("RTX_A5000",)}, "none is free at the moment"),
        ({"image": "x:cuda13.0"}, "with CUDA 11.8, 12.2, 12.4, 12.8; choose an --image for a CUDA below 13.0"),
    ],
    ids=str,
)
def test_what_keeps_an_offer_away_is_said(runpod, wishes, said):
    with pytest.raises(NoOffer, match=said):
        runpod.search(MachineSpec(max_usd_per_hour=9, **wishes))


@pytest.mark.parametrize("interruptible", [True, False])
def test_that_there_are_no_interruptible_machines_is_said_once(runpod, caplog, interruptible):
    caplog.set_level(logging.INFO)

    for _ in range(2):
        runpod.search(MachineSpec(max_usd_per_hour=0.5, interruptible=interruptible))

    assert caplog.text.count("on demand only") == int(interruptible)


def test_wishes_of_which_nothing_is_known_are_said_to_do_nothing(runpod, caplog):
    runpod.search(MachineSpec(max_usd_per_hour=0.5, inet_mbps=100))

    assert "--bandwidth and --reliability are not looked at" in caplog.text


# ---------------------------------------------------------------------- orders


def test_an_order_says_what_is_wanted_and_holds_no_key_of_ours(runpod, cloud):
    wanted = MachineSpec(gpus=("A100_PCIE",), num_gpus=2, ram_gb=100, disk_gb=20.5, max_usd_per_hour=9)
    number = rent(runpod, wanted, UPS_JOB="a digest")

    order = dict(cloud.instance(number).contract)

    assert order["gpu"] == {"id": "NVIDIA A100 80GB PCIe", "count": 2, "minCudaVersion": "12.4", "minRamPerGpu": 50}
    assert (order["name"], order["disk"], order["ports"], order["cloud"]) == ("ups-r1-g1", 21, ["22/tcp"], "SECURE")
    assert order["env"]["UPS_JOB"] == "a digest"
    assert KEY not in str(order)
    assert len(order["args"]) < 4000


def test_an_order_that_is_refused_for_good_ends_with_what_was_said(runpod, cloud):
    cloud.faults.no_capacity = -1
    offers = runpod.search(WANTED)
    for offer in offers:
        with pytest.raises(OfferGone, match="no instances currently available"):
            runpod.rent(offer, WANTED, label="ups-r1-g1", onstart=SCRIPT, env={})

    with pytest.raises(NoOffer, match=r"refuses every offer .*no instances currently available"):
        runpod.search(WANTED)
    assert runpod.search(WANTED) == offers


def test_a_gpu_that_the_account_may_not_use_is_said_as_well_as_the_key(runpod, cloud):
    cloud.faults.next_status = [("create", 403)]

    with pytest.raises(KeyRefused, match="RUNPOD_API_KEY and its rights, or whether the account may use this GPU"):
        rent(runpod)


def test_a_pod_appears_in_the_list_later_than_by_itself(runpod, cloud):
    cloud.faults.list_lag_s = 60.0
    number = rent(runpod)

    assert runpod.list_instances("ups-") == []
    assert runpod.describe(number).label == "ups-r1-g1"


# ---------------------------------------------------------------------- life


def test_a_pod_boots_runs_and_stops(runpod, cloud):
    cloud.faults.boot_delay_s = 3600.0
    number = rent(runpod)
    assert runpod.describe(number).state == "booting"
    cloud.instance(number).boots_at = cloud.clock()
    assert waits_for(lambda: runpod.describe(number).state == "running")

    cloud.stop_instance(cloud.instance(number))

    stopped = runpod.describe(number)
    assert (stopped.state, stopped.detail, stopped.usd_per_hour) == ("failed", "EXITED", 0.0)
    assert [one.id for one in runpod.list_instances("ups-")] == [number]


@pytest.mark.parametrize("shown", [True, False])
def test_a_pod_that_is_terminated_is_gone_whether_it_is_shown_or_not(runpod, cloud, shown):
    number = rent(runpod)
    cloud.faults.terminated_is_shown = shown
    cloud.destroy(cloud.instance(number))

    assert runpod.describe(number) is None
    runpod.destroy(number)


@pytest.mark.parametrize("name", ["id", "name", "status"])
def test_a_pod_that_does_not_say_what_it_is_proves_nothing(runpod, cloud, name):
    number = rent(runpod)
    cloud.faults.missing_fields = [name]

    with pytest.raises(UnknownOutcome):
        runpod.describe(number)
    with pytest.raises(UnknownOutcome):
        runpod.list_instances("ups-")


def test_a_pod_ends_itself_with_its_own_program(runpod, cloud):
    number = rent(runpod, script='bash -c "$UPS_DESTROY"\n')

    assert waits_for(lambda: not cloud.live())
    assert runpod.describe(number) is None


def test_the_container_outlives_its_script_for_runpod_would_start_it_again(runpod, cloud):
    number = rent(runpod, script="echo done\n")

    assert waits_for(lambda: "done" in runpod.logs(number))
    time.sleep(1.5)
    assert (cloud.instance(number).starts, runpod.describe(number).state) == (1, "running")


def test_a_log_is_its_last_lines_although_its_stream_does_not_end(runpod):
    number = rent(runpod, script="for n in {1..300}; do echo line $n; done\nsleep 60\n")
    assert waits_for(lambda: "line 300\n" in runpod.logs(number))

    lines = runpod.logs(number).splitlines()

    assert lines == [f"line {n}" for n in range(201, 301)]


def test_a_secret_that_a_machine_writes_is_not_shown(runpod, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "wandbcanary")
    number = rent(runpod, script="echo $WANDB_API_KEY; sleep 60\n", WANDB_API_KEY="wandbcanary")

    assert waits_for(lambda: runpod.logs(number) == "<WANDB_API_KEY>\n")


def test_logins_go_through_runpods_door_or_else_to_the_pods_port(runpod, cloud):
    number = rent(runpod)
    assert waits_for(lambda: runpod.describe(number).state == "running")

    assert runpod.ssh_address(number).host == "ssh.runpod.example"
    cloud.faults.next_rows = [{"ssh": {"proxy": None, "direct": cloud.instance(number).row(0)["ssh"]["direct"]}}]
    assert runpod.ssh_address(number).user == "root"
    cloud.faults.next_rows = [{"ssh": {"proxy": None, "direct": None}}]
    with pytest.raises(ProviderError, match="takes no logins yet"):
        runpod.ssh_address(number)


# ---------------------------------------------------------------------- the account


def test_neither_credit_nor_account_variables_are_told(runpod):
    assert not isinstance(runpod, Accounted)
    assert not runpod.has_account_variable("WANDB_API_KEY")


def test_a_limit_is_waited_out_as_long_as_it_asks(cloud):
    waited: list[float] = []
    runpod = RunpodProvider(pause=waited.append)
    cloud.faults.set(retry_after_s=7, next_status=[("list", 429), ("list", 429), ("list", 500)])

    assert runpod.list_instances("ups-") == []

    assert waited == [7.0, 7.0, 10.0]


@pytest.mark.parametrize(
    "url",
    [
        "http://api.runpod.io/v2",
        "http://10.0.0.1/v2",
        "ftp://127.0.0.1",
        "api.runpod.io",
        "http://[::1",
        "https://x:y",
        "http://127.0.0.1@evil.example/v2",
    ],
)
def test_the_key_goes_to_no_address_that_others_can_listen_at(cloud, monkeypatch, url):
    monkeypatch.setenv("RUNPOD_URL", url)

    with pytest.raises(ProviderRefused, match=r"RUNPOD_URL: is no https:// address"):
        RunpodProvider()


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_a_key_that_is_none_is_said_without_it(cloud, monkeypatch, key):
    monkeypatch.setenv("RUNPOD_API_KEY", key)

    with pytest.raises(ProviderRefused, match="RUNPOD_API_KEY: is no key") as raised:
        RunpodProvider()

    assert key not in str(raised.value)


def test_a_redirection_is_not_followed_with_the_key(runpod, cloud):
    cloud.faults.next_status = [("show", 307)] * 10

    with pytest.raises(UnknownOutcome, match="HTTP 307"):
        runpod.describe("any")


# ---------------------------------------------------------------------- commands

THERE = ("--provider", "runpod")


def test_the_commands_of_machines_show_and_destroy_pods(ups, runpod, cloud, tmp_path):
    number = rent(runpod)

    shown = ups("instances", *THERE, cwd=tmp_path)
    destroyed = ups("destroy", number, "--yes", *THERE, cwd=tmp_path)

    assert [line.split() for line in shown.stdout.splitlines()[1:2]] == [
        [number, "running", "0.440", "no", "ups-r1-g1"]
    ], shown.stderr
    assert f"{number}: destroyed" in destroyed.stdout, destroyed.stderr
    assert cloud.live() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--max-price", "0.01"), "the cheapest is 0.440 USD/h"),
        (("--gpu", "RTX_4091"), "the nearest --gpu it has are RTX_4090"),
        (("--gpu", "H100"), "RunPod has several; choose from H100_PCIE, H100_SXM"),
    ],
)
def test_a_launch_that_finds_nothing_says_what_there_is(tracked_ups, cloud, tmp_path, arguments, said):
    launch = ("launch", "--config", str(ROOT / "configs/smoke.yaml"), "--dry-run", "--set", "runtime.device=cpu")

    done = tracked_ups(*launch, *THERE, *arguments, cwd=tmp_path)

    assert (done.returncode, done.stderr.count("Traceback")) == (2, 0)
    assert said in done.stderr
    assert KEY not in done.stdout + done.stderr


def test_a_dry_run_shows_the_price_on_demand_and_that_nothing_is_bid(tracked_ups, cloud, tmp_path):
    launch = ("launch", "--config", str(ROOT / "configs/smoke.yaml"), "--dry-run", "--set", "runtime.device=cpu")

    done = tracked_ups(*launch, *THERE, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "1 x RTX 4090, EU-RO-1" in done.stdout
    assert "0.440 USD/h (on demand)" in done.stdout
    assert "on demand only" in done.stderr
    assert cloud.instances == []


def test_no_key_is_one_sentence(tracked_ups, cloud, tmp_path, monkeypatch):
    monkeypatch.delenv("RUNPOD_API_KEY")

    done = tracked_ups("instances", *THERE, cwd=tmp_path)

    assert (done.returncode, done.stderr) == (2, "ups: no RunPod key: put it into RUNPOD_API_KEY\n")
