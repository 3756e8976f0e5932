"""What a launch buys when it must be done by a time, and what it may cost."""

import json
import time
from dataclasses import dataclass, field

import pytest

from tasks.services.rental.choosing.buyer import AWAY_AGAIN_S, TICK_S, Buyer
from tasks.services.rental.choosing.market import Market
from tasks.services.rental.choosing.pace import PaceMeter, Work
from tasks.services.rental.choosing.terms import Terms, at, deadline_of
from tasks.services.rental.journal import Journal, PaceSeen
from tasks.services.rental.provider import MachineSpec, NoOffer, Offer, UnknownOutcome
from ups_models.errors import BadInput

START = time.time()
STEPS_PER_H = 72_000  # of an RTX 4090, measured
WORK = Work((("operator", 4 * STEPS_PER_H), ("diff_residual", 2 * STEPS_PER_H)))
SEEN = (PaceSeen("p/other", "RTX 4090", STEPS_PER_H, 3600.0, 300.0),)
H = 3600.0


@dataclass
class Bazaar:
    """A market whose prices a test sets; None: nothing of the kind is on offer."""

    spot: float | None = 0.2
    demand: float | None = 0.5
    to_keep: float | None = None
    supports_bids: bool = True
    bids: list[tuple[str, float]] = field(default_factory=list)

    def search(self, spec):
        price = self.spot if spec.interruptible else self.demand
        if price is None:
            raise NoOffer("nothing of the kind")
        return [Offer("1", "7", "RTX 4090", 1, price, "DE", is_bid=spec.interruptible)]

    def price_to_keep(self, instance_id):
        return self.to_keep

    def change_bid(self, instance_id, usd_per_hour):
        self.bids.append((instance_id, usd_per_hour))


@dataclass
class Clock:
    """A time that passes when a test says so."""

    seconds: float = START

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "rented.jsonl")
    journal.note("began", job={"run": "p/r1"}, provider="bazaar")
    return journal


@pytest.fixture
def buyer_in(journal, clock):
    def make(bazaar, *, hours=None, **terms):
        deadline = START + hours * H if hours is not None else None
        market = Market(
            bazaar, MachineSpec(max_usd_per_hour=1.0), journal, lambda error: pytest.fail(str(error)), pytest.fail
        )
        return Buyer(market, journal, Terms(WORK, deadline=deadline, **terms), SEEN, clock)

    return make


def rented(journal, *, is_bid, price=0.2):
    offer = {"id": "1", "machine_id": "7", "gpu": "RTX 4090", "region": "DE", "is_bid": is_bid}
    journal.note("renting", 1, label="ups-r1-g1", offer=offer, usd_per_hour=price)
    journal.note("rented", id="1000")
    return journal.machines[1]


def decisions(journal):
    entries = [json.loads(line) for line in journal.path.read_text("utf-8").splitlines()]
    return [(entry["choice"], entry["why"]) for entry in entries if entry["event"] == "decided"]


def test_without_a_deadline_the_wanted_kind_is_bought_and_nothing_is_decided(buyer_in, journal):
    offer = buyer_in(Bazaar()).pick()

    assert (offer.is_bid, offer.usd_per_hour, decisions(journal)) == (True, 0.2, [])


def test_with_time_to_spare_a_machine_is_bid_for_and_the_reason_is_in_the_journal(buyer_in, journal):
    offer = buyer_in(Bazaar(), hours=14).pick()

    [(choice, why)] = decisions(journal)
    assert (offer.is_bid, choice) == (True, "spot")
    assert why.startswith(
        "6.1 h of work (measured in other trainings), 13.8 h left; 0.200 USD/h by bid, 0.500 on demand"
    )
    assert "expected to the end in USD: none " in why
    assert Journal(journal.path).launches()[-1].decision == f"spot: {why}"


def test_with_time_to_spare_and_none_by_bid_it_waits(buyer_in, journal):
    buyer = buyer_in(Bazaar(spot=None), hours=14)

    assert buyer.pick() is None
    assert decisions(journal)[0][0] == "none"
    assert buyer.wait_s(600.0) == TICK_S


def test_with_no_time_to_lose_it_pays_for_what_is_not_taken_away(buyer_in, journal):
    assert not buyer_in(Bazaar(), hours=6.38).pick().is_bid
    assert decisions(journal)[0][0] == "on demand"


def test_a_decision_that_stays_the_same_is_written_once(buyer_in, journal):
    buyer = buyer_in(Bazaar(spot=None), hours=14)
    for _ in range(3):
        buyer.pick()

    assert len(decisions(journal)) == 1


def test_a_deadline_that_no_machine_can_meet_is_refused_with_the_time_and_the_cost(buyer_in):
    with pytest.raises(BadInput) as refused:
        buyer_in(Bazaar(), hours=5).pick()

    text = str(refused.value)
    assert f"--deadline {at(START + 5 * H)}: cannot be met: 6.1 h and 1." in text
    assert "USD to the end (measured in other trainings) by bid" in text
    assert f"is done by {at(START + (6 + 1 / 12 + 0.25) * H)}" in text
    assert "--expected-hours" in text


def test_how_long_it_takes_may_be_said(buyer_in, journal):
    buyer = buyer_in(Bazaar(), hours=5, expected_hours=3.0)

    assert buyer.pick() is not None
    assert decisions(journal)[0][1].startswith("3.1 h of work (measured in this training)")


def test_a_budget_that_no_start_fits_into_is_refused(buyer_in):
    with pytest.raises(BadInput, match=r"--max-total-cost 0\.01: the start of one machine alone costs 0\.017 USD"):
        buyer_in(Bazaar(), max_usd=0.01).pick()


def test_a_deadline_that_can_no_longer_be_met_does_not_end_the_training(buyer_in, journal, clock):
    rented(journal, is_bid=True)
    buyer = buyer_in(Bazaar(), hours=7)
    clock.seconds += 3 * H

    assert buyer.pick() is not None
    assert "cannot be met any more: as soon as possible" in decisions(journal)[0][1]


def test_what_the_budget_does_not_allow_is_not_bought(buyer_in, journal):
    rented(journal, is_bid=True)
    offer = buyer_in(Bazaar(), hours=6.6, max_usd=2.0).pick()

    assert offer.is_bid
    assert "within the budget" in decisions(journal)[0][1]


def test_a_machine_on_demand_is_left_once_a_cheap_one_will_do(buyer_in, journal, clock):
    machine, bazaar = rented(journal, is_bid=False, price=0.5), Bazaar(spot=None)
    buyer = buyer_in(bazaar, hours=7)
    buyer.position = ("diff_residual", 0)
    assert buyer.review(machine, is_away=False)[0] == "keep"

    bazaar.spot = 0.1
    assert buyer.review(machine, is_away=False) == ("keep", "")  # looked at once a tick
    clock.seconds += TICK_S

    advice, why = buyer.review(machine, is_away=False)
    assert advice == "leave"
    assert why.startswith("is left for one by bid: ")


def test_a_machine_on_demand_is_kept_though_the_market_has_no_other(buyer_in, journal):
    machine = rented(journal, is_bid=False, price=0.5)
    buyer = buyer_in(Bazaar(spot=None, demand=None), hours=7)
    buyer.position = ("operator", 10)

    assert buyer.review(machine, is_away=False)[0] == "keep"


def test_a_machine_that_is_new_has_its_start_before_it_though_the_run_is_far(buyer_in, journal, clock):
    buyer = buyer_in(Bazaar(spot=None), hours=14)
    buyer.position = ("diff_residual", 10)
    buyer.pick()

    assert buyer.ordered_at == ("diff_residual", 10)


def test_a_machine_by_bid_is_kept_while_it_trains(buyer_in, journal):
    machine = rented(journal, is_bid=True)

    assert buyer_in(Bazaar(), hours=9).review(machine, is_away=False)[0] == "keep"


def test_an_outbid_machine_is_bid_for_again_for_its_disk_holds_everything(buyer_in, journal):
    machine, bazaar = rented(journal, is_bid=True), Bazaar(spot=0.25, to_keep=0.22)

    advice, _ = buyer_in(bazaar, hours=9).review(machine, is_away=True)

    assert (advice, bazaar.bids) == ("wait", [("1000", 0.22)])
    again = Journal(journal.path).machines[1]
    assert (again.usd_per_hour, again.now_usd_per_hour) == (0.2, 0.22)
    assert "whose disk holds everything" in decisions(journal)[0][1]


def test_a_machine_that_does_not_come_back_for_the_price_it_asks_is_left(buyer_in, journal, clock):
    machine, bazaar = rented(journal, is_bid=True), Bazaar(spot=None, to_keep=0.25)
    buyer = buyer_in(bazaar, hours=14)

    assert buyer.review(machine, is_away=True)[0] == "wait"
    clock.seconds += AWAY_AGAIN_S

    assert buyer.review(machine, is_away=True) == ("leave", "was taken away")
    assert bazaar.bids == [("1000", 0.25)]


def test_an_outbid_machine_is_waited_for_while_there_is_time_and_looked_at_each_minute(buyer_in, journal, clock):
    machine, bazaar = rented(journal, is_bid=True), Bazaar(spot=None, to_keep=2.0)
    buyer = buyer_in(bazaar, hours=30)

    assert buyer.review(machine, is_away=True)[0] == "wait"
    assert decisions(journal)[0][1].startswith("waiting for the same machine")
    bazaar.to_keep = 0.25
    assert (buyer.review(machine, is_away=True)[0], bazaar.bids) == ("wait", [])
    clock.seconds += AWAY_AGAIN_S
    assert (buyer.review(machine, is_away=True)[0], bazaar.bids) == ("wait", [("1000", 0.25)])


@pytest.mark.parametrize(
    ("bazaar", "hours"),
    [
        (Bazaar(spot=0.15, to_keep=0.5), 14),  # another is cheaper
        (Bazaar(spot=None, to_keep=None), 14),  # nobody says what it would take
        (Bazaar(spot=None, to_keep=2.0), 6.38),  # on demand now, or too late
    ],
)
def test_an_outbid_machine_is_left_where_another_way_is_better(buyer_in, journal, bazaar, hours):
    machine = rented(journal, is_bid=True)

    assert buyer_in(bazaar, hours=hours).review(machine, is_away=True) == ("leave", "was taken away")
    assert bazaar.bids == []


def test_a_bid_without_an_answer_leaves_the_machine(buyer_in, journal):
    class Silent(Bazaar):
        def change_bid(self, instance_id, usd_per_hour):
            raise UnknownOutcome("no answer")

    machine = rented(journal, is_bid=True)

    advice, why = buyer_in(Silent(spot=None, to_keep=0.25), hours=14).review(machine, is_away=True)

    assert (advice, why) == ("leave", "was taken away, and does not take a higher bid")
    assert Journal(journal.path).machines[1].bids == []


def test_a_market_without_bids_is_bought_from_on_demand(buyer_in, journal):
    offer = buyer_in(Bazaar(supports_bids=False), hours=14).pick()

    assert not offer.is_bid


def test_what_machines_reached_here_counts_more_than_elsewhere(buyer_in, journal):
    buyer = buyer_in(Bazaar(), hours=14)
    assert buyer.ranking().startup_h == pytest.approx(300 / 3600)

    journal.note("pace", 1, run="p/r1", gpu="RTX 4090", steps=STEPS_PER_H, seconds=7200.0, startup_s=900.0)

    assert buyer.pace().source("RTX 4090") == "measured in this training"
    assert buyer.ranking().startup_h == pytest.approx(600 / 3600)


def test_a_machine_is_measured_from_its_own_first_step_on():
    meter = PaceMeter(WORK, ("operator", 100))
    for position, now in [(("operator", 100), 10.0), (("operator", 130), 20.0), (("operator", 130), 25.0)]:
        meter.see(position, now)
    assert meter.measured() == (0, 0.0)

    meter.see(("operator", 230), 30.0)
    meter.see(("operator", 230), 99.0)

    assert meter.measured() == (100, 10.0)


@pytest.mark.parametrize(
    ("text", "hours"), [("23:59", 24), ("2999-01-01T08:00", None), ("2999-01-01T08:00+02:00", None)]
)
def test_a_deadline_is_the_next_such_time_or_a_date(text, hours):
    seconds = deadline_of(text, START)

    assert seconds > START
    assert hours is None or seconds - START <= hours * H
    assert at(seconds).endswith(text[-5:] if hours else at(seconds)[-5:])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("25:00", "is no time; write 08:00"),
        ("tomorrow", "is no time; write 08:00"),
        ("20", "is no time"),
        ("2999-12", "is no time"),
        ("29991201", "names a day without an hour"),
        ("2999-01-01", "names a day without an hour; write 2999-01-01T08:00"),
        ("2020-01-01T08:00", "has passed"),
    ],
)
def test_a_deadline_that_is_none_is_refused(text, said):
    with pytest.raises(BadInput, match=f"--deadline .*{said}"):
        deadline_of(text, START)
