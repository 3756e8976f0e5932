"""What every provider keeps to, whoever rents the machines out: one suite, with real machines in each market."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from harness.emulators.runpod.emulator import RunpodEmulator
from harness.emulators.sshd import lan
from harness.emulators.switches import BROKEN, DROP
from harness.emulators.vast.emulator import VastEmulator
from tasks.services.rental.provider import (
    KeyRefused,
    MachineSpec,
    NoOffer,
    NoSuchInstance,
    OfferGone,
    Provider,
    ProviderError,
    ProviderRefused,
    UnknownOutcome,
)
from tasks.services.rental.providers.local import LocalProvider
from tasks.services.rental.providers.runpod import RunpodProvider
from tasks.services.rental.providers.ssh.provider import SshProvider
from tasks.services.rental.providers.ssh.shell import SystemShell
from tasks.services.rental.providers.vast import VastProvider

KEY = "canary0key0that0nobody0must0ever0find"
SCRIPT = '#!/usr/bin/env bash\necho "begun, generation $UPS_GENERATION"\nsleep 60\n'
WANTED = MachineSpec(gpus=("RTX_4090",), max_usd_per_hour=0.5, disk_gb=20)
ENV = {"WANDB_API_KEY": "wandbcanary", "UPS_GENERATION": "1", "UPS_MAX_SECONDS": "600"}
SEEN_WITHIN_S = 120.0


@dataclass
class Market:
    """A provider, and the cloud behind it in the hands of a test."""

    cloud: Any
    key: str
    make: Callable[..., Provider]
    gone: Mapping[str, Any] = field(default_factory=dict)
    """Switches by which an offer goes to somebody else."""
    unnoticed: tuple[tuple[str, str], ...] = ()
    """Broken answers that its own client takes for empty ones: why an empty list is never believed at once."""

    def provider(self, pause: Callable[[float], None] = lambda _: None) -> Provider:
        """As another process would make it."""
        return self.make(pause=pause)


@pytest.fixture
def vast_market(tmp_path, monkeypatch):
    with VastEmulator(tmp_path / "cloud", api_key=KEY) as cloud:
        cloud.default_market()
        monkeypatch.setenv("VAST_URL", cloud.url + "/")
        monkeypatch.setenv("VAST_API_KEY", KEY)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        yield Market(cloud, "VAST_API_KEY", VastProvider, {"offer_gone": 1}, (("list", "strange"),))


@pytest.fixture
def runpod_market(tmp_path, monkeypatch):
    with RunpodEmulator(tmp_path / "cloud", api_key=KEY) as cloud:
        cloud.default_market()
        monkeypatch.setenv("RUNPOD_URL", f"{cloud.url}/v2/")
        monkeypatch.setenv("RUNPOD_API_KEY", KEY)
        yield Market(cloud, "RUNPOD_API_KEY", RunpodProvider, {"no_capacity": 1})
        assert cloud.rejected == []


@pytest.fixture(params=["vast", "runpod"])
def market(request):
    """Each market that is reached over HTTP with a key."""
    return request.getfixturevalue(f"{request.param}_market")


@pytest.fixture
def here(market):
    """Its provider."""
    return market.provider()


@pytest.fixture
def own_machines(tmp_path, monkeypatch):
    """One host with a GPU."""
    with lan(tmp_path / "lan") as net:
        monkeypatch.setenv("UPS_SSH_CONFIG", str(net.config))
        monkeypatch.setenv("UPS_HOSTS", "gpu1")
        monkeypatch.setenv("HOME", str(tmp_path))
        net.add("gpu1").has_gpus("RTX 4090")
        yield lambda: SshProvider(tmp_path / "run", SystemShell(), pause=lambda _: None)


@pytest.fixture(params=["vast", "runpod", "ssh", "local"])
def anywhere(request, tmp_path):
    """A factory of providers that see the same machines: each market, one's own machines, and this one."""
    if request.param == "local":
        return lambda: LocalProvider(tmp_path / "instances")
    if request.param == "ssh":
        return request.getfixturevalue("own_machines")
    return request.getfixturevalue(f"{request.param}_market").provider


def rent(provider, label="ups-r1-g1", wanted=WANTED):
    return provider.rent(provider.search(wanted)[0], wanted, label=label, onstart=SCRIPT, env=ENV)


def seen(look):
    """What is found, once it is there."""
    deadline = time.monotonic() + SEEN_WITHIN_S
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


# ---------------------------------------------------------------------- every provider


def test_offers_are_under_the_price_and_the_cheapest_comes_first(anywhere):
    offers = anywhere().search(WANTED)

    prices = [offer.usd_per_hour for offer in offers]
    assert prices == sorted(prices)
    assert 0 <= prices[0] <= prices[-1] <= WANTED.max_usd_per_hour
    assert {offer.gpu.replace(" ", "_") for offer in offers} == {"RTX_4090"}
    assert len({offer.id for offer in offers}) == len(offers)


def test_a_machine_is_rented_described_listed_and_given_back(anywhere):
    first, another = anywhere(), anywhere()
    number = rent(first)

    described = another.describe(number)
    assert described is not None
    assert (described.id, described.label) == (number, "ups-r1-g1")
    assert described.state in ("booting", "running")
    assert [one.id for one in another.list_instances("ups-r1-")] == [number]
    assert another.list_instances("ups-other") == []

    another.destroy(number)

    assert first.describe(number) is None
    assert another.describe(number) is None
    assert another.list_instances("ups-") == []


def test_the_script_runs_with_its_variables_and_what_it_writes_is_the_log(anywhere):
    provider = anywhere()
    number = rent(provider)

    assert seen(lambda: "begun, generation 1\n" in provider.logs(number))
    assert provider.describe(number).state == "running"
    provider.destroy(number)
    assert "begun" in provider.logs(number) or provider.logs(number) == ""


def test_nothing_that_is_kept_of_a_machine_carries_a_secret(anywhere):
    provider = anywhere()
    number = rent(provider)

    shown = f"{provider.describe(number)!r} {provider.list_instances('ups-')!r} {provider.logs(number)}"

    assert "canary" not in shown
    provider.destroy(number)


def test_giving_back_what_is_gone_is_no_error(anywhere):
    provider = anywhere()
    number = rent(provider)

    provider.destroy(number)
    provider.destroy(number)

    assert provider.describe(number) is None


def test_where_to_log_in_is_told_or_that_there_is_no_such_machine(anywhere):
    provider = anywhere()
    number = rent(provider)

    def address():
        try:
            return [provider.ssh_address(number)]
        except ProviderError:
            return []

    (found,) = seen(address)

    assert found is None or found.command or (found.user and found.host and found.port > 0)
    provider.destroy(number)
    with pytest.raises(NoSuchInstance, match=f"instance {number}"):
        provider.ssh_address(number)


# ---------------------------------------------------------------------- what is on offer


def test_no_offer_under_the_price_names_the_cheapest(here):
    with pytest.raises(NoOffer, match=r"under 0\.001 USD/h: the cheapest is 0\.\d+ USD/h; raise --max-price"):
        here.search(MachineSpec(gpus=("RTX_4090",), max_usd_per_hour=0.001))


@pytest.mark.parametrize(("image", "least"), [(WANTED.image, 12.4), ("pytorch:2.13.0-cuda12.8-runtime", 12.8)])
def test_the_driver_of_an_offer_runs_the_image(here, image, least):
    offers = here.search(MachineSpec(max_usd_per_hour=0.5, disk_gb=20, image=image))

    assert min(offer.cuda for offer in offers) >= least


def test_an_image_that_no_driver_on_offer_runs_is_said(here):
    with pytest.raises(NoOffer, match=r"an --image for a CUDA below 13\.0"):
        here.search(MachineSpec(image="pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime"))


def test_no_such_gpu_is_said(here):
    with pytest.raises(NoOffer, match="RTX_9999"):
        here.search(MachineSpec(gpus=("RTX_9999",)))


def test_the_price_of_a_disk_comes_with_its_offer(here):
    assert here.search(WANTED)[0].disk_usd_per_gb_month > 0


# ---------------------------------------------------------------------- orders


def test_an_answer_that_was_lost_is_uncertain_and_the_order_is_sent_once(market, here):
    market.cloud.faults.lose_reply_to_create = 1

    with pytest.raises(UnknownOutcome):
        rent(here)

    assert [one.label for one in here.list_instances("ups-r1-g1")] == ["ups-r1-g1"]
    assert sum(one.endpoint == "create" for one in market.cloud.requests) == 1


@pytest.mark.parametrize("answer", [500, 520, 429, 408, 425, DROP, *BROKEN])
@pytest.mark.parametrize("pages", [False, True])
def test_an_order_without_a_proper_answer_may_have_rented(market, here, answer, pages):
    market.cloud.faults.set(error_pages=pages, next_status=[("create", answer)])

    with pytest.raises(UnknownOutcome):
        rent(here)


@pytest.mark.parametrize("answer", ["empty", "cut", "strange"])
def test_a_machine_whose_answer_was_bent_is_found_by_its_label(market, here, answer):
    market.cloud.faults.break_reply_to_create = answer

    with pytest.raises(UnknownOutcome):
        rent(here)

    assert [one.label for one in here.list_instances("ups-r1-g1")] == ["ups-r1-g1"]


def test_an_offer_that_went_to_somebody_else_is_told_apart(market, here):
    market.cloud.faults.set(**market.gone)

    with pytest.raises(OfferGone):
        rent(here)

    assert market.cloud.live() == []


def test_no_credit_is_for_the_owner_of_the_account(market, here):
    market.cloud.faults.no_credit = 1

    with pytest.raises(ProviderRefused, match="no credit"):
        rent(here)

    assert market.cloud.live() == []


# ---------------------------------------------------------------------- the key


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_without_rights_is_for_the_owner_of_the_account(market, here, status):
    market.cloud.faults.auth_error = status

    with pytest.raises(KeyRefused, match=market.key) as raised:
        here.search(WANTED)

    assert KEY not in str(raised.value)


def test_a_wrong_key_is_refused(market, monkeypatch):
    monkeypatch.setenv(market.key, "wrong")

    with pytest.raises(KeyRefused):
        market.provider().search(WANTED)


def test_no_key_is_said(market, monkeypatch):
    monkeypatch.delenv(market.key)

    with pytest.raises(ProviderRefused, match=market.key):
        market.provider()


def test_the_key_stands_in_the_header_and_nowhere_else(market, here, caplog, tmp_path):
    caplog.set_level("DEBUG")
    number = rent(here)
    seen(lambda: here.logs(number))
    here.describe(number)
    market.cloud.faults.next_status = [("show", 500), ("destroy", 409)]
    here.destroy(number)

    assert KEY not in caplog.text
    assert not any(KEY in one.path for one in market.cloud.requests)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


# ---------------------------------------------------------------------- answers

STUMBLES = [[429, 429, 429], [500, 503], [520, 524], [408, 409, 425], [DROP], *([name] for name in BROKEN)]


@pytest.mark.parametrize("pages", [False, True])
@pytest.mark.parametrize("answers", STUMBLES, ids=str)
def test_a_question_outlasts_limits_outages_and_broken_answers(market, here, answers, pages):
    number = rent(here)
    market.cloud.faults.set(error_pages=pages, next_status=[("show", answer) for answer in answers])

    assert here.describe(number).id == number
    assert market.cloud.faults.next_status == []


@pytest.mark.parametrize("endpoint", ["search", "list"])
@pytest.mark.parametrize("answer", [429, 500, DROP, *BROKEN])
def test_so_does_each_other_question(market, here, endpoint, answer):
    number = rent(here)
    market.cloud.faults.next_status = [(endpoint, answer)]

    assert here.search(WANTED)
    listed = [one.id for one in here.list_instances("ups-")]
    assert listed == ([] if (endpoint, answer) in market.unnoticed else [number])
    assert market.cloud.faults.next_status == []


def test_a_page_of_a_proxy_does_not_say_that_a_machine_is_gone(market, here):
    number = rent(here)
    market.cloud.faults.set(error_pages=True, next_status=[("show", 404)])

    assert here.describe(number).id == number


def test_a_server_that_answers_nothing_is_uncertain(market, here):
    number = rent(here)
    market.cloud.faults.next_status = [("show", 500)] * 20

    with pytest.raises(UnknownOutcome):
        here.describe(number)


@pytest.mark.parametrize("answer", [401, 404, 429, 500, DROP, *BROKEN])
def test_a_log_that_cannot_be_read_is_empty(market, here, answer):
    number = rent(here)
    market.cloud.faults.next_status = [("logs", answer)]

    assert here.logs(number) == ""


# ---------------------------------------------------------------------- the end


def test_giving_back_is_repeated_until_the_machine_is_gone(market, here):
    number = rent(here)
    market.cloud.faults.destroy_fails_times = 3

    here.destroy(number)

    assert market.cloud.live() == []


@pytest.mark.parametrize("answer", [408, 409, 429, 520, DROP, *BROKEN])
def test_an_answer_alone_does_not_say_that_it_is_gone(market, here, answer):
    number = rent(here)
    market.cloud.faults.next_status = [("destroy", answer)]

    here.destroy(number)

    assert market.cloud.live() == []


def test_a_machine_that_stays_is_named_as_costing_money(market, here):
    number = rent(here)
    market.cloud.faults.destroy_fails_times = -1

    with pytest.raises(ProviderError, match=rf"instance {number} is not destroyed .* costs money"):
        here.destroy(number)


@pytest.mark.parametrize("status", [401, 403])
def test_a_machine_that_may_not_be_destroyed_is_named_with_the_reason(market, here, status):
    number = rent(here)
    market.cloud.faults.auth_error = status

    with pytest.raises(ProviderError, match=rf"instance {number} is not destroyed.*{market.key}"):
        here.destroy(number)


def test_a_refusal_that_passes_does_not_leave_a_machine_behind(market):
    provider = market.provider(pause=lambda _: market.cloud.faults.set(auth_error=0))
    number = rent(provider)
    market.cloud.faults.auth_error = 401

    provider.destroy(number)

    assert market.cloud.live() == []


def test_an_image_that_does_not_start_has_failed(market, here):
    market.cloud.faults.image_fails = 1
    number = rent(here)
    market.cloud.tick()

    assert here.describe(number).state == "failed"
