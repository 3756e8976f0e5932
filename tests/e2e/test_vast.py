"""Vast.ai through its real SDK, against the emulator on loopback: what is asked, concluded, and never said."""

import pytest

from harness.emulators.switches import BROKEN, DROP
from harness.emulators.vast.emulator import VastEmulator
from tasks.services.rental.provider import (
    MachineSpec,
    NoOffer,
    NoSuchInstance,
    OfferGone,
    ProviderError,
    ProviderRefused,
    UnknownOutcome,
)
from tasks.services.rental.providers.local import LocalProvider
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


def test_offers_fit_and_the_cheapest_comes_first(vast):
    offers = vast.search(WANTED)

    prices = [offer.usd_per_hour for offer in offers]
    assert prices == sorted(prices)
    assert max(prices) <= 0.5
    assert {offer.gpu for offer in offers} == {"RTX 4090"}


def test_a_bid_is_a_little_above_the_least_and_never_above_the_limit(vast, cloud):
    for offer in vast.search(WANTED):
        least = cloud.offers[int(offer.id)].min_bid
        assert least < offer.usd_per_hour <= min(0.5, 1.2 * least + 1e-9)


def test_no_offer_under_the_price_names_the_cheapest(vast):
    with pytest.raises(NoOffer, match=r"under 0\.001 USD/h: the cheapest is 0\.\d+ USD/h"):
        vast.search(MachineSpec(gpus=("RTX_4090",), max_usd_per_hour=0.001))


@pytest.mark.parametrize(("image", "least"), [(WANTED.image, 12.4), ("pytorch:2.13.0-cuda12.8-runtime", 12.8)])
def test_the_driver_of_an_offer_runs_the_image(vast, image, least):
    offers = vast.search(MachineSpec(max_usd_per_hour=0.5, disk_gb=20, image=image))

    assert min(offer.cuda for offer in offers) >= least


def test_an_image_that_no_driver_on_offer_runs_is_said(vast):
    with pytest.raises(NoOffer, match=r"an --image for a CUDA below 13\.0"):
        vast.search(MachineSpec(image="pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime"))


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


def test_a_machine_is_rented_described_listed_and_given_back(vast, cloud):
    number = rent(vast)

    described = vast.describe(number)
    assert (described.label, described.is_bid) == ("ups-r1-g1", True)
    assert [one.id for one in vast.list_instances("ups-r1-")] == [number]
    assert vast.list_instances("ups-other") == []

    vast.destroy(number)

    assert vast.describe(number) is None
    assert cloud.live() == []


def test_on_demand_is_no_bid(vast):
    wanted = MachineSpec(gpus=("RTX_4090",), max_usd_per_hour=2, disk_gb=20, interruptible=False)

    assert not vast.describe(rent(vast, wanted=wanted)).is_bid


def test_a_reply_that_was_lost_is_uncertain_and_sent_once(vast, cloud):
    cloud.faults.lose_reply_to_create = 1

    with pytest.raises(UnknownOutcome):
        rent(vast)

    assert [one.label for one in vast.list_instances("ups-r1-g1")] == ["ups-r1-g1"]
    assert len(cloud.live()) == 1


def test_an_offer_that_went_to_somebody_else_is_told_apart(vast, cloud):
    cloud.faults.offer_gone = 1

    with pytest.raises(OfferGone):
        rent(vast)

    assert cloud.live() == []


@pytest.mark.parametrize("status", [400, 200])
def test_a_bid_that_was_too_low_leaves_no_stopped_instance_behind(vast, cloud, status):
    cloud.faults.set(low_bid=1, low_bid_status=status, low_bid_ignores_cancel_unavail=True)

    with pytest.raises(OfferGone):
        rent(vast)

    assert cloud.live() == []


def test_no_credit_is_for_the_account_owner(vast, cloud):
    cloud.faults.no_credit = 1

    with pytest.raises(ProviderRefused, match="no credit"):
        rent(vast)


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_without_rights_is_for_the_account_owner(vast, cloud, status):
    cloud.faults.auth_error = status

    with pytest.raises(ProviderRefused, match="VAST_API_KEY") as raised:
        vast.search(WANTED)

    assert KEY not in str(raised.value)


def test_a_wrong_key_is_refused(cloud, monkeypatch):
    monkeypatch.setenv("VAST_API_KEY", "wrong")

    with pytest.raises(ProviderRefused):
        VastProvider(pause=lambda _: None).search(WANTED)


def test_no_key_is_said(cloud, monkeypatch):
    monkeypatch.delenv("VAST_API_KEY")

    with pytest.raises(ProviderRefused, match=r"no Vast\.ai key"):
        VastProvider()


STUMBLES = [[429, 429, 429], [500, 503], [520, 524], [408, 409, 425], [DROP], *([name] for name in BROKEN)]


@pytest.mark.parametrize("pages", [False, True])
@pytest.mark.parametrize("answers", STUMBLES, ids=str)
def test_a_question_outlasts_limits_outages_and_broken_answers(vast, cloud, answers, pages):
    number = rent(vast)
    cloud.faults.set(error_pages=pages, next_status=[("show", answer) for answer in answers])

    assert vast.describe(number).id == number
    assert cloud.faults.next_status == []


@pytest.mark.parametrize("answer", [500, 520, 429, *BROKEN])
@pytest.mark.parametrize("pages", [False, True])
def test_an_order_without_a_proper_answer_may_have_rented(vast, cloud, answer, pages):
    cloud.faults.set(error_pages=pages, next_status=[("create", answer)])

    with pytest.raises(UnknownOutcome):
        rent(vast)


def test_a_page_of_a_proxy_does_not_say_that_a_machine_is_gone(vast, cloud):
    number = rent(vast)
    cloud.faults.set(error_pages=True, next_status=[("show", 404)])

    assert vast.describe(number).id == number


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


def test_a_server_that_answers_nothing_is_uncertain(vast, cloud):
    cloud.faults.next_status = [("show", 500)] * 20

    with pytest.raises(UnknownOutcome):
        vast.describe(1)


def test_giving_back_is_repeated_until_the_machine_is_gone(vast, cloud):
    number = rent(vast)
    cloud.faults.destroy_fails_times = 3

    vast.destroy(number)

    assert cloud.live() == []


def test_a_machine_that_stays_is_named_as_costing_money(vast, cloud):
    number = rent(vast)
    cloud.faults.destroy_fails_times = -1

    with pytest.raises(ProviderError, match=rf"instance {number} is not destroyed .* costs money"):
        vast.destroy(number)


def test_giving_back_what_is_gone_is_no_error(vast):
    number = rent(vast)
    vast.destroy(number)

    vast.destroy(number)


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


def test_an_image_that_does_not_start_has_failed(vast, cloud):
    cloud.faults.image_fails = 1
    number = rent(vast)
    cloud.tick()

    assert vast.describe(number).state == "failed"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_machine_that_may_not_be_destroyed_is_named_with_the_reason(vast, cloud, status):
    number = rent(vast)
    cloud.faults.auth_error = status

    with pytest.raises(ProviderError, match=rf"instance {number} is not destroyed.*VAST_API_KEY"):
        vast.destroy(number)


def test_a_refusal_that_passes_does_not_leave_a_machine_behind(cloud):
    vast = VastProvider(pause=lambda _: cloud.faults.set(auth_error=0))
    number = rent(vast)
    cloud.faults.auth_error = 401

    vast.destroy(number)

    assert cloud.live() == []


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


def test_nothing_that_we_keep_of_an_instance_carries_a_secret(vast):
    described = vast.describe(rent(vast))

    assert "canary" not in repr(described)


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


def test_the_price_of_a_disk_comes_with_its_offer(vast, cloud):
    offer = vast.search(WANTED)[0]

    assert offer.disk_usd_per_gb_month == cloud.offers[int(offer.id)].storage_cost > 0


def test_this_machine_rents_lists_and_gives_back_too(tmp_path):
    local = LocalProvider(tmp_path)
    number = local.rent(local.search(WANTED)[0], WANTED, label="ups-r1-g1", onstart=SCRIPT, env=ENV)

    described = local.describe(number)
    assert described is not None
    assert described.state == "running"
    assert [one.id for one in LocalProvider(tmp_path).list_instances("ups-r1-")] == [number]
    local.destroy(number)
    assert local.describe(number) is None
    assert local.list_instances("ups-") == []
