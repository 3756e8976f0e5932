"""Vast.ai through its real SDK, against its emulator: what is true only there; test_providers.py has the rest."""

import pytest

from harness.emulators.vast.emulator import VastEmulator
from tasks.services.rental.provider import (
    MachineSpec,
    NoOffer,
    NoSuchInstance,
    OfferGone,
    ProviderError,
    UnknownOutcome,
)
from tasks.services.rental.providers.vast import VastProvider

KEY = "vastcanary0key0that0nobody0must0ever0find"
SCRIPT = "#!/usr/bin/env bash\necho begun\nsleep 60\n"
WANTED = MachineSpec(gpus=("RTX_4090",), max_usd_per_hour=0.5, disk_gb=20)
ENV = {"WANDB_API_KEY": "wandbcanary", "UPS_GENERATION": "1"}


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    with VastEmulator(tmp_path / "cloud", api_key=KEY) as emulator:
        emulator.default_market()
        monkeypatch.setenv("VAST_URL", emulator.url + "/")
        monkeypatch.setenv("VAST_API_KEY", KEY)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        yield emulator


@pytest.fixture
def vast(cloud):
    return VastProvider(pause=lambda _: None)


def rent(vast, label="ups-r1-g1", wanted=WANTED):
    return vast.rent(vast.search(wanted)[0], wanted, label=label, onstart=SCRIPT, env=ENV)


def test_a_bid_is_a_little_above_the_least_and_never_above_the_limit(vast, cloud):
    for offer in vast.search(WANTED):
        least = cloud.offers[int(offer.id)].min_bid
        assert least < offer.usd_per_hour <= min(0.5, 1.2 * least + 1e-9)


def test_no_such_gpu_is_said_with_the_nearest_name(vast):
    with pytest.raises(NoOffer, match=r"has no 1 x RTX_9999 .*; the nearest --gpu on offer is RTX_4090"):
        vast.search(MachineSpec(gpus=("RTX_9999",)))


@pytest.mark.parametrize(
    ("wishes", "miss"),
    [
        ({"disk_gb": 500}, "0.130 USD/h in SE, has disk_space 200 (--disk)"),
        ({"gpu_ram_gb": 48}, "0.130 USD/h in SE, has gpu_ram 24564 (--gpu-ram)"),
        ({"ram_gb": 128}, "0.130 USD/h in SE, has cpu_ram 64000 (--ram)"),
        ({"inet_mbps": 1000}, "0.150 USD/h in DE, has inet_down 500 (--bandwidth)"),
        ({"reliability": 0.999}, "0.180 USD/h in NL, has reliability 0.995 (--reliability)"),
        ({"datacenter": True}, "0.130 USD/h in SE, has datacenter 0 (--datacenter)"),
        ({"countries": ("JP",)}, "0.130 USD/h in SE, has geolocation SE (--region)"),
        ({"hours": 10_000}, "0.130 USD/h in SE, has duration 2.592e+06 (--max-hours)"),
    ],
)
def test_what_the_nearest_offer_misses_is_said_with_its_price(vast, wishes, miss):
    with pytest.raises(NoOffer) as refused:
        vast.search(MachineSpec(**wishes))

    assert f"has no 1 x RTX_4090 (bid) that fits; the nearest, {miss}" in str(refused.value)


def test_bandwidth_may_be_too_dear(vast, cloud):
    for one in cloud.offers.values():
        one.inet_down_cost = 0.02
    assert vast.search(MachineSpec(max_usd_per_tb=20.0))

    with pytest.raises(NoOffer, match=r"inet_down_cost 0\.02 \(--max-bandwidth-price\)"):
        vast.search(MachineSpec(max_usd_per_tb=19.0))


def test_any_of_several_gpus_will_do_in_any_of_several_places(vast):
    found = vast.search(MachineSpec(gpus=("RTX_4090", "RTX_3090"), countries=("DE", "FR")))

    assert {(one.gpu, one.region) for one in found} == {("RTX 4090", "DE"), ("RTX 3090", "FR")}


def test_machines_that_nobody_verified_must_be_asked_for(vast):
    everywhere = vast.search(MachineSpec(verified=False))

    assert {one.region for one in everywhere} - {one.region for one in vast.search(MachineSpec())} == {"CN"}


def test_on_demand_is_no_bid(vast):
    wanted = MachineSpec(gpus=("RTX_4090",), max_usd_per_hour=2, disk_gb=20, interruptible=False)

    assert not vast.describe(rent(vast, wanted=wanted)).is_bid


@pytest.mark.parametrize("status", [400, 200])
def test_a_bid_that_was_too_low_leaves_no_stopped_instance_behind(vast, cloud, status):
    cloud.faults.set(low_bid=1, low_bid_status=status, low_bid_ignores_cancel_unavail=True)

    with pytest.raises(OfferGone):
        rent(vast)

    assert cloud.live() == []


@pytest.mark.parametrize("name", ["min_bid", "machine_id", "id"])
def test_offers_that_cannot_be_read_are_no_empty_list(vast, cloud, name):
    for offer in cloud.offers.values():
        setattr(offer, name, None)

    with pytest.raises(UnknownOutcome, match="no list of offers"):
        vast.search(WANTED)


def test_an_offer_that_cannot_be_read_is_left_out(vast, cloud):
    cheapest, *others = [offer.id for offer in vast.search(WANTED)]
    cloud.offers[int(cheapest)].machine_id = None

    assert [offer.id for offer in vast.search(WANTED)] == others


@pytest.mark.parametrize("status", ["stopped", "exited"])
@pytest.mark.parametrize("flips", [True, False])
def test_an_outbid_machine_is_not_running_however_that_is_said(vast, cloud, status, flips):
    cloud.faults.set(outbid_status=status, outbid_flips_intended=flips, auto_resume_delay_s=None)
    number = rent(vast)

    cloud.preempt(int(number))

    assert vast.describe(number).state == "away"


def test_an_offline_host_is_not_running(vast, cloud):
    number = rent(vast)

    cloud.host_offline(int(number), kill=False)

    assert vast.describe(number).state == "away"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_machine_that_may_not_be_destroyed_is_named_with_the_reason(vast, cloud, status):
    number = rent(vast)
    cloud.faults.auth_error = status

    with pytest.raises(ProviderError, match=rf"instance {number} is not destroyed.*VAST_API_KEY"):
        vast.destroy(number)


@pytest.mark.parametrize("name", ["actual_status", "intended_status"])
def test_a_row_that_does_not_say_whether_it_runs_proves_nothing(vast, cloud, name):
    number = rent(vast)
    cloud.faults.missing_fields = [name]

    with pytest.raises(UnknownOutcome, match=str(number)):
        vast.describe(number)


def test_an_account_variable_is_known_by_its_name(vast):
    assert not vast.has_account_variable("WANDB_API_KEY")
    vast.client.create_env_var("WANDB_API_KEY", "account-wide")
    assert vast.has_account_variable("WANDB_API_KEY")


def test_the_credit_of_the_account_is_known(vast, cloud):
    cloud.set_credit(12.5)

    assert vast.credit() == pytest.approx(12.5, abs=0.01)


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_may_not_read_the_account_says_nothing_of_its_credit(vast, cloud, status):
    cloud.faults.next_status = [("user", status)]

    assert vast.credit() is None


def test_an_account_that_does_not_answer_is_uncertain(vast, cloud):
    cloud.faults.next_status = [("user", 500)] * 20

    with pytest.raises(UnknownOutcome):
        vast.credit()


def test_where_to_log_in_is_known_once_the_machine_is_up(vast, cloud):
    number = rent(vast)

    address = vast.ssh_address(number)

    assert (address.user, address.host) == ("root", "127.0.0.1")
    assert address.port > 0
    cloud.host_offline(int(number), kill=False)
    with pytest.raises(ProviderError, match="takes no logins yet"):
        vast.ssh_address(number)
    vast.destroy(number)
    with pytest.raises(NoSuchInstance, match=f"instance {number}"):
        vast.ssh_address(number)
