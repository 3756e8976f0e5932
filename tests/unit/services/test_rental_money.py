"""Money and messages of a launch: what was spent, what is left, who is told how it ended, and how to log in."""

import contextlib
from datetime import UTC, datetime

import httpx
import pytest

from tasks.services.rental.claims import TakenOver
from tasks.services.rental.costs import costs_of, total, totals
from tasks.services.rental.credit import LOOK_EVERY_S, CreditWatch, credit_of
from tasks.services.rental.journal import Journal, Launch, Machine
from tasks.services.rental.launches import Known
from tasks.services.rental.limits import BudgetSpent
from tasks.services.rental.logins import address_of, in_words, ssh_command
from tasks.services.rental.notices import noticed, require_safe_webhook
from tasks.services.rental.provider import NoOffer, ProviderRefused, SshAddress, UnknownOutcome
from tasks.services.rental.providers.local import LocalProvider
from tasks.services.tracking.protocols import TrackingUnavailable
from ups_models.errors import BadInput, UPSError

MIDNIGHT = datetime(2026, 11, 28, tzinfo=UTC).timestamp()
HOOK = "https://hooks.example.org/T0KEN"


def machine(generation, number, began_h, ended_h=None, usd=0.2):
    offer = {"machine_id": 7, "gpu": "RTX 4090"}
    ended = None if ended_h is None else MIDNIGHT + 3600 * ended_h
    return Machine(generation, "l", offer, usd, MIDNIGHT + 3600 * began_h, number, ended, 0.1)


def known(tmp_path, run, *machines):
    return Known(Launch(run, "vast", MIDNIGHT, None, machines), tmp_path / "rented.jsonl")


# ----------------------------------------------------------------------------------------------------------------- cost


def test_a_machine_costs_its_gpu_and_its_disk_on_each_day(tmp_path):
    launch = known(tmp_path, "p/r1", machine(1, "1000", -2, 3), machine(2, "1001", 4), machine(3, None, 5, 6))

    costs = costs_of([launch], MIDNIGHT + 3600 * 6)

    days = [(row.name, round(row.hours, 6)) for row in totals(costs, "day")]
    assert days == [("2026-11-27", 2.0), ("2026-11-28", 5.0)]
    machines = [(row.name, round(row.gpu_usd, 6), round(row.disk_usd, 6)) for row in totals(costs, "machine")]
    assert machines == [("1000 (RTX 4090)", 1.0, 0.5), ("1001 (RTX 4090)", 0.4, 0.2)]
    assert total(costs).usd == pytest.approx(2.1)


def test_several_launches_have_a_line_each(tmp_path):
    costs = costs_of(
        [known(tmp_path, "p/r1", machine(1, "1000", 0, 1)), known(tmp_path, "p/r2", machine(1, "1001", 0, 2))], MIDNIGHT
    )

    assert [(row.name, round(row.gpu_usd, 6)) for row in totals(costs, "launch")] == [("p/r1", 0.2), ("p/r2", 0.4)]


def test_traffic_costs_what_the_offer_asks_for_a_gigabyte_on_the_day_it_was_told(tmp_path):
    one = machine(1, "1000", -2, 3)
    one.offer |= {"inet_usd_per_gb": 0.02, "inet_up_usd_per_gb": 0.01}
    one.count_traffic(MIDNIGHT - 60, (10 * 10**9, 0))
    one.count_traffic(MIDNIGHT + 60, (15 * 10**9, 2 * 10**9))
    one.count_traffic(MIDNIGHT + 90, (10**9, 0))  # started again: it counts from zero

    costs = costs_of([known(tmp_path, "p/r1", one)], MIDNIGHT + 3600 * 6)

    days = [(row.name, round(row.traffic_usd, 6)) for row in totals(costs, "day")]
    assert days == [("2026-11-27", 0.2), ("2026-11-28", 0.14)]
    assert total(costs).usd == pytest.approx(5 * 0.3 + 0.34)
    assert one.usd(MIDNIGHT + 3600 * 6) == pytest.approx(5 * 0.2 + 0.34)


def test_nothing_rented_costs_nothing():
    assert (totals([], "day"), total([]).usd) == ([], 0)


# --------------------------------------------------------------------------------------------------------------- credit


class Account:
    """A provider of nothing but an account."""

    def __init__(self, credit):
        self.answer, self.asked = credit, 0

    def credit(self):
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def watch(account, now=(0.0,)):
    return CreditWatch(account, clock=lambda: now[0])


def test_less_credit_than_the_first_hour_costs_is_refused():
    with pytest.raises(ProviderRefused, match=r"credit of 0\.10 USD, less than the first hour .*0\.200 USD"):
        watch(Account(0.1)).require_hour(0.2)


@pytest.mark.parametrize("credit", [0.2, 5.0, None, UnknownOutcome("no answer"), ProviderRefused("no right")])
def test_enough_credit_or_an_account_that_does_not_say_is_no_obstacle(credit):
    watch(Account(credit)).require_hour(0.2)


def test_a_provider_without_an_account_has_no_credit(tmp_path):
    assert credit_of(LocalProvider(tmp_path)) is None


def test_less_than_an_hour_left_is_a_warning_and_asked_only_from_time_to_time(caplog):
    account, now = Account(0.1), [0.0]
    seen = watch(account, now)

    for now[0] in (0.0, 10.0, LOOK_EVERY_S, LOOK_EVERY_S + 10):
        seen.warn(0.2)

    assert account.asked == 2
    assert caplog.text.count("enough for 30 minutes") == 2


# -------------------------------------------------------------------------------------------------------------- notices


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "rented.jsonl")
    journal.note("began", job={"run": "p/r1"})
    journal.note("renting", 1, label="l", offer={"machine_id": 1}, usd_per_hour=0.2)
    journal.note("rented", id="1000")
    return journal


def ends(journal, error=None, answer=200):
    """What the webhook was told."""
    told = []

    def post(url, **options):
        told.append((url, options["json"]))
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer, request=httpx.Request("POST", url))

    with noticed(HOOK, "p/r1", journal, post):
        if error is not None:
            raise error
    return told


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (BudgetSpent("--max-total-cost of 1 USD: reached"), "budget spent"),
        (UPSError("the training failed"), "gave up"),
        (NoOffer("nothing fits"), "bad input"),
        (SystemExit(75), "stopped"),
    ],
)
def test_how_a_launch_ended_is_told_and_raised_all_the_same(journal, error, event):
    told = []

    def post(url, **options):
        told.append(options["json"])
        return httpx.Response(200, request=httpx.Request("POST", url))

    with pytest.raises(type(error)), noticed(HOOK, "p/r1", journal, post):
        raise error

    [content] = told
    assert (content["event"], content["run"], content["machines"]) == (event, "p/r1", 1)
    assert content["text"].startswith(f"{event}: run p/r1: ")
    assert content["usd"] >= 0


def test_a_training_that_is_complete_is_told_in_a_small_json(journal):
    [(url, content)] = ends(journal)

    assert url == HOOK
    assert content["event"] == "completed"
    assert len(str(content)) < 1000


@pytest.mark.parametrize("answer", [500, 302, httpx.ConnectError("refused: T0KEN")])
def test_a_webhook_that_does_not_answer_is_one_warning_without_its_address(journal, caplog, answer):
    ends(journal, answer=answer)

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "nobody was told" in caplog.text
    assert "T0KEN" not in caplog.text


@pytest.mark.parametrize(
    ("error", "alerts"),
    [
        (None, [("ups launch: completed", False)]),
        (BudgetSpent("--max-total-cost of 1 USD: reached"), [("ups launch: budget spent", True)]),
        (UPSError("the training failed"), [("ups launch: gave up", True)]),
        (TakenOver("another controller has it"), []),
        (SystemExit(75), []),
    ],
)
def test_wandb_is_told_unless_a_signal_or_another_controller_ended_it(journal, error, alerts):
    told = []

    def alert(title, text, *, is_error):
        told.append((title, is_error))
        assert "run p/r1: " in text

    with contextlib.suppress(UPSError, SystemExit), noticed(None, "p/r1", journal, alert=alert):
        if error is not None:
            raise error

    assert told == alerts


def test_an_alert_that_does_not_arrive_is_one_warning(journal, caplog):
    def alert(title, text, *, is_error):
        raise TrackingUnavailable("W&B did not take it")

    with noticed(None, "p/r1", journal, alert=alert):
        pass

    assert [record.getMessage() for record in caplog.records] == ["W&B did not take it: nobody was told"]


def test_without_a_webhook_nobody_is_told(journal):
    with noticed(None, "p/r1", journal, pytest.fail):
        pass


@pytest.mark.parametrize("url", ["https://example.org/x", "http://127.0.0.1:8000/x", "http://localhost/x"])
def test_a_webhook_is_https_or_on_this_machine(url):
    require_safe_webhook(url)


@pytest.mark.parametrize("url", ["http://example.org/x", "ftp://127.0.0.1", "hook", "https://", "http://[::1"])
def test_any_other_address_is_refused(url):
    with pytest.raises(ValueError, match="https://"):
        require_safe_webhook(url)


# --------------------------------------------------------------------------------------------------------------- logins


class Logins:
    """A provider of nothing but addresses."""

    def __init__(self, address):
        self.address = address

    def ssh_address(self, instance_id):
        return self.address


def test_the_command_takes_only_keys_and_keeps_the_host_s_own_in_the_run_directory(tmp_path):
    command = ssh_command(SshAddress("root", "ssh5.vast.ai", 41022), "1000", tmp_path)

    said = in_words(command)
    assert said.startswith("ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=accept-new ")
    assert said.endswith("-p 41022 root@ssh5.vast.ai")
    assert f"UserKnownHostsFile={tmp_path / 'ssh' / 'known_hosts-1000'}" in said
    assert "ForwardAgent=no" in said


def test_a_key_of_one_s_own_is_the_only_one_that_is_offered(tmp_path):
    command = ssh_command(SshAddress("root", "h", 22), "1", tmp_path, tmp_path / "id_vast")

    assert command[command.index("-i") + 1] == str(tmp_path / "id_vast")
    assert "IdentitiesOnly=yes" in command


@pytest.mark.parametrize(
    ("provider", "named"),
    [
        (object(), "--provider cluster: does not say how to log in"),
        (Logins(None), "runs on this machine"),
        (Logins(SshAddress("root", "-oProxyCommand=x", 22)), "is none"),
    ],
)
def test_where_there_is_nothing_to_log_in_to_is_one_line(provider, named):
    with pytest.raises(BadInput, match=named):
        address_of(provider, "cluster", "1000")
