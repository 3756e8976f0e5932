"""The controller of rented machines: whatever happens, training ends, no machine is left, and none is rented twice."""

import json
import threading
import time
from dataclasses import dataclass, field

import pytest

from tasks.services.rental.bundle import MAX_ONSTART_CHARS, onstart
from tasks.services.rental.controller import Controller, TrainingFailed
from tasks.services.rental.fleet import LIST_TRIES, label_prefix
from tasks.services.rental.journal import NOTED_BYTES, Journal
from tasks.services.rental.limits import BudgetSpent, Limits
from tasks.services.rental.lock import exclusive_controller
from tasks.services.rental.notices import stopped
from tasks.services.rental.provider import (
    Instance,
    KeyRefused,
    MachineSpec,
    NoOffer,
    Offer,
    OfferGone,
    ProviderError,
    ProviderRefused,
    UnknownOutcome,
)
from tasks.services.run.attempts import ChainRun, Duplicate
from tasks.services.tracking.protocols import RemoteProgress, TrackingUnavailable
from ups_models.errors import BadInput

WITHIN_S = 60
QUICK = Limits(poll_s=0, lost_after_s=0, backoff_s=(0,) * 8, boot_timeout_s=3600)


@dataclass
class Market:
    """A provider and the run on its machines, by script: each machine lives through one list of states."""

    scripts: list[list[str]]
    supports_bids: bool = True
    offers: int = 8
    created: list[str] = field(default_factory=list)
    live: dict[str, Instance] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)
    most_live: int = 0
    rent_raises: list[BaseException] = field(default_factory=list)
    rents_all_the_same: bool = False
    list_raises: int = 0
    list_empty: int = 0
    destroy_raises: bool = False
    generation: int = 0
    outcome: tuple[int, int] | None = None
    step: int = 0
    environments: list[dict[str, str]] = field(default_factory=list)
    log: str = ""
    refuses: dict[str, int] = field(default_factory=dict)
    """So many of the next calls of a method are refused with the key."""

    run_id = "r1"

    # -- as a provider

    def check_key(self, method):
        if self.refuses.get(method, 0):
            self.refuses[method] -= 1
            raise KeyRefused("Vast.ai refuses the key")

    def search(self, wanted):
        self.check_key("search")
        if not self.offers:
            raise NoOffer("nothing under the price: the cheapest is 9.000 USD/h")
        return [Offer(str(100 + n), str(n), "RTX 4090", 1, 0.2, "DE", 12.8) for n in range(self.offers)]

    def rent(self, offer, wanted, *, label, onstart, env):
        self.check_key("rent")
        self.environments.append(dict(env))
        error = self.rent_raises.pop(0) if self.rent_raises else None
        if error is not None and not self.rents_all_the_same:
            raise error
        number = str(1000 + len(self.created))
        self.created.append(number)
        self.live[number] = Instance(number, offer.machine_id, label, "booting", "", True, 0.2)
        self.left[number] = list(self.scripts.pop(0)) if self.scripts else ["running", "done"]
        self.most_live = max(self.most_live, len(self.live))
        if error is not None:
            raise error
        return number

    def describe(self, instance_id):
        self.check_key("describe")
        if instance_id not in self.live:
            return None
        states = self.left[instance_id]
        state = states.pop(0) if len(states) > 1 else states[0]
        number = int(self.live[instance_id].label.rpartition("g")[2])
        if state == "done":
            self.outcome, state = (number, 0), "running"
        elif state.startswith("exit "):
            self.outcome, state = (number, int(state.removeprefix("exit "))), "running"
        elif state == "step":
            self.step, state = self.step + 10, "running"
        elif state == "gone":
            del self.live[instance_id]
            return None
        elif state == "unknown":
            raise UnknownOutcome("no answer")
        self.live[instance_id] = Instance(
            **{**vars(self.live[instance_id]), "state": state, "detail": "told by the script"}
        )
        return self.live[instance_id]

    def list_instances(self, prefix):
        self.check_key("list")
        if self.list_raises:
            self.list_raises -= 1
            raise UnknownOutcome("the list is odd")
        if self.list_empty:
            self.list_empty -= 1
            return []
        return [one for one in self.live.values() if one.label.startswith(prefix)]

    def logs(self, instance_id):
        return self.log

    def destroy(self, instance_id):
        if self.destroy_raises:
            raise ProviderError(f"instance {instance_id} is not destroyed, and costs money")
        self.live.pop(instance_id, None)

    def has_account_variable(self, name):
        return False

    # -- as a job

    def identity(self):
        return {"run": "p/r1", "artifact": "a", "digest": "d"}

    def acquire_fence(self, generation):
        self.generation = generation

    def environment(self, generation):
        return {"UPS_GENERATION": str(generation), "WANDB_API_KEY": "secret"}

    def progress(self):
        return RemoteProgress(self.generation, self.outcome, "operator", self.step, "running")


def rental(market, tmp_path, **options):
    limits = options.pop("limits", QUICK)
    return Controller(
        market,
        MachineSpec(),
        market,
        "script",
        Journal(tmp_path / "rented.jsonl"),
        limits,
        pause=lambda _: None,
        **options,
    )


def events(tmp_path):
    return [json.loads(line)["event"] for line in (tmp_path / "rented.jsonl").read_text("utf-8").splitlines()]


def test_a_machine_that_fails_leaves_its_log_and_its_last_line_is_said(tmp_path):
    market = Market([["running", "exit 2"]], log="fetching\nups: no \x1b[31mfield\nups-onstart: exit 2 generation 1\n")

    with pytest.raises(TrainingFailed, match=r"bad input; its last line: ups: no field; .*machine-1\.log"):
        rental(market, tmp_path).run()

    assert (tmp_path / "machine-1.log").read_text("utf-8") == market.log


def test_a_training_that_is_left_alone_takes_one_machine_and_gives_it_back(tmp_path):
    market = Market([["booting", "booting", "running", "step", "done"]])

    rental(market, tmp_path).run()

    assert (len(market.created), market.live) == (1, {})
    assert events(tmp_path) == ["began", "renting", "rented", "pace", "given back", "closed"]


@pytest.mark.parametrize("away", ["away", "gone"])
def test_a_machine_that_is_taken_away_is_given_back_before_the_next_is_rented(tmp_path, away):
    market = Market([["running", "step", away], ["running", "step", away], ["running", "done"]])

    rental(market, tmp_path).run()

    assert (len(market.created), market.most_live, market.live) == (3, 1, {})
    assert market.generation == 3


def test_a_machine_is_told_what_its_driver_supports_and_the_journal_notes_it(tmp_path):
    market = Market([["running", "done"]])

    rental(market, tmp_path).run()

    assert [variables["UPS_CUDA"] for variables in market.environments] == ["12.8"]
    assert [entry["offer"]["cuda"] for entry in lines(tmp_path) if entry["event"] == "renting"] == [12.8]


def test_many_interruptions_cost_no_error(tmp_path):
    market = Market([["running", "away"]] * 20 + [["running", "done"]])

    rental(market, tmp_path).run()

    assert (len(market.created), market.live) == (21, {})


@pytest.mark.parametrize("script", [["booting", "failed"], ["running", "exit 76"], ["running", "exit 77"]])
def test_a_machine_that_does_not_come_up_is_not_taken_again(tmp_path, script):
    market = Market([script, ["running", "done"]])
    controller = rental(market, tmp_path)

    controller.run()

    assert market.live == {}
    assert len(market.created) == 2


def test_a_training_that_is_stopped_by_a_signal_goes_on_elsewhere(tmp_path):
    market = Market([["running", "step", "exit 75"], ["running", "done"]])

    rental(market, tmp_path).run()

    assert (len(market.created), market.live) == (2, {})


@pytest.mark.parametrize(
    ("scripts", "machines", "named"),
    [
        ([["running", "exit 2"]], 1, "exit code 2, bad input"),
        ([["running", "exit 1"], ["running", "exit 1"]], 2, "exit code 1, the same error twice at operator step 0"),
        ([["running", "step", "exit 1"], ["running", "exit 1"]], 2, "the same error twice at operator step 10"),
        ([["booting", "failed"]] * 3, 3, "3 errors without progress, the last machine did not come up"),
    ],
)
def test_what_another_machine_cannot_cure_ends_the_launch_and_is_said(tmp_path, scripts, machines, named):
    market = Market(scripts)

    with pytest.raises(TrainingFailed, match=named):
        rental(market, tmp_path).run()

    assert (len(market.created), market.live) == (machines, {})


def test_an_error_after_progress_is_a_new_error(tmp_path):
    market = Market([["running", "step", "exit 1"], ["running", "step", "exit 1"], ["running", "step", "done"]])

    rental(market, tmp_path).run()

    assert (len(market.created), market.live) == (3, {})


def test_a_failed_machine_is_kept_where_that_was_asked_for_and_its_cost_is_said(tmp_path):
    market = Market([["running", "exit 1"]])

    with pytest.raises(TrainingFailed, match=r"costs 0\.200 USD/h until `ups destroy 1000`"):
        rental(market, tmp_path, keep_on_failure=True).run()

    assert list(market.live) == ["1000"]


def test_a_machine_that_is_left_as_asked_is_named_with_its_cost(tmp_path, caplog):
    market = Market([["running", "done"]])

    rental(market, tmp_path, auto_shutdown=False).run()

    assert list(market.live) == ["1000"]
    assert "instance 1000 is kept as asked and costs 0.200 USD/h until `ups destroy 1000`" in caplog.text


@pytest.mark.parametrize("rented", [False, True])
def test_a_lost_reply_is_settled_by_the_label_and_never_rents_twice(tmp_path, rented):
    market = Market([["running", "done"]], rent_raises=[UnknownOutcome("no answer")], rents_all_the_same=rented)

    rental(market, tmp_path).run()

    assert (len(market.created), market.most_live, market.live) == (1, 1, {})


class RefusesAfterALostReply(Market):
    """The first list after an order whose reply is lost is refused with the key."""

    def rent(self, offer, wanted, **options):
        try:
            return super().rent(offer, wanted, **options)
        except UnknownOutcome:
            self.refuses["list"] = 1
            raise


def test_a_lost_reply_and_a_list_that_is_refused_never_rent_twice(tmp_path):
    market = RefusesAfterALostReply(
        [["running", "done"]], rent_raises=[UnknownOutcome("no answer")], rents_all_the_same=True
    )

    rental(market, tmp_path).run()

    assert (len(market.created), market.most_live, market.live) == (1, 1, {})


def test_a_lost_reply_and_a_list_that_is_wrongly_empty_leave_nothing_behind(tmp_path):
    market = Market(
        [["running"], ["running", "done"]],
        rent_raises=[UnknownOutcome("no answer")],
        rents_all_the_same=True,
        list_empty=4,
    )

    rental(market, tmp_path).run()

    assert market.live == {}


def test_offers_that_are_gone_count_as_no_machine(tmp_path):
    market = Market([["running", "done"]], rent_raises=[OfferGone("the offer is gone")] * 5)

    rental(market, tmp_path, limits=Limits(**{**vars(QUICK), "max_machines": 1})).run()

    assert (len(market.created), market.live) == (1, {})


def test_a_machine_that_failed_is_not_rented_again_after_the_controller_was_killed(tmp_path):
    market = Market([["running", "exit 76"], ["running", "done"]])
    kill_controller_at("ENDED", market, tmp_path)

    rental(market, tmp_path).run()

    assert [entry["offer"]["machine_id"] for entry in lines(tmp_path) if entry["event"] == "renting"] == ["0", "1"]


def test_no_more_machines_are_rented_than_the_limit_says(tmp_path):
    market = Market([["running", "away"]] * 10)

    with pytest.raises(BudgetSpent, match="limit of 3 machines"):
        rental(market, tmp_path, limits=Limits(**{**vars(QUICK), "max_machines": 3})).run()

    assert len(market.created) == 3


def test_an_offer_that_is_gone_is_followed_by_another(tmp_path):
    market = Market([["running", "done"]], rent_raises=[OfferGone("the offer is gone")])

    rental(market, tmp_path).run()

    assert (len(market.created), market.live) == (1, {})


def test_no_offer_at_the_start_asks_a_person(tmp_path):
    with pytest.raises(NoOffer, match="the cheapest is"):
        rental(Market([], offers=0), tmp_path).run()


def test_nothing_is_concluded_from_no_answer(tmp_path):
    market = Market([["running", "unknown", "unknown", "unknown", "running", "done"]])

    rental(market, tmp_path).run()

    assert (len(market.created), market.live) == (1, {})


@pytest.mark.parametrize("method", ["describe", "search", "rent"])
def test_a_key_that_is_refused_for_a_moment_while_the_launch_has_machines_costs_nothing(tmp_path, method):
    market = Market([["running", "step", "away"], ["running", "done"]])

    def refuse(state, facts):
        if state == ("RUNNING" if method == "describe" else "ENDED"):
            market.refuses.setdefault(method, 3)

    rental(market, tmp_path, show=refuse).run()

    assert market.refuses == {method: 0}
    assert (len(market.created), market.most_live, market.live) == (2, 1, {})
    assert Journal(tmp_path / "rented.jsonl").not_destroyed() == []


@pytest.mark.parametrize("method", ["search", "rent"])
def test_a_key_that_is_refused_before_the_first_machine_ends_the_launch_at_once(tmp_path, method):
    market = Market([["running", "done"]], refuses={method: 1})

    with pytest.raises(KeyRefused):
        rental(market, tmp_path).run()

    assert (market.created, market.refuses) == ([], {method: 0})
    assert not any(entry["event"] == "renting" and entry["generation"] > 1 for entry in lines(tmp_path))


def test_a_key_that_stays_refused_ends_the_launch(tmp_path):
    market = Market([["running", "running"]])
    limits = Limits(**{**vars(QUICK), "refused_after_s": 0.2})

    def refuse(state, facts):
        market.refuses["describe"] = 10**9

    controller = rental(market, tmp_path, limits=limits, show=refuse)
    controller.pause = lambda _: time.sleep(0.01)

    with pytest.raises(KeyRefused):
        controller.run()

    assert market.live == {}


def test_a_controller_that_comes_back_does_not_leave_its_machine_for_one_refusal(tmp_path):
    market = Market([["running", "step", "running", "done"]])
    kill_controller_at("RUNNING", market, tmp_path)
    market.refuses["list"] = 2

    rental(market, tmp_path).run()

    assert (len(market.created), market.live) == (1, {})


def test_a_machine_whose_training_stands_still_is_given_up_though_its_heart_beats(tmp_path):
    market = Market([["running"], ["running", "done"]])
    beats = iter(range(10**9))

    def logs(instance_id):
        silent = "10:00:00 INFO    phase training\n" if instance_id == "1000" else ""
        return f"{silent}ups-onstart: alive {next(beats)} s\n"

    market.logs = logs  # type: ignore[method-assign]  # its heart beats

    limits = Limits(**{**vars(QUICK), "stall_max_s": 0.5})
    rental(market, tmp_path, limits=limits).run()

    assert (len(market.created), market.live) == (2, {})


def test_heartbeats_are_not_shown_to_the_person_who_watches(tmp_path):
    market = Market([["running", "running", "running", "done"]], log="operator 3/30\nups-onstart: alive 60 s\n")
    shown = []

    rental(market, tmp_path, show=lambda state, facts: shown.extend(facts.get("log", []))).run()

    assert set(shown) == {"operator 3/30"}


def test_what_a_machine_has_received_and_sent_is_in_the_journal_before_it_ends_and_at_its_end(tmp_path):
    market = Market([["running", "running", "running", "running", "done"]])
    told = iter([(100, 5), (NOTED_BYTES + 200, 7), (NOTED_BYTES + 300, 9)])
    last = [(0, 0)]

    def logs(instance_id):
        last[0] = next(told, last[0])
        return "ups-onstart: alive 60 s received {} sent {}\n".format(*last[0])

    market.logs = logs  # type: ignore[method-assign]

    rental(market, tmp_path).run()

    noted = [(entry["received"], entry["sent"]) for entry in lines(tmp_path) if entry["event"] == "traffic"]
    assert noted == [(NOTED_BYTES + 200, 7), (NOTED_BYTES + 300, 9)]
    [machine] = Journal(tmp_path / "rented.jsonl").launches()[0].machines
    assert machine.counted == (NOTED_BYTES + 300, 9)


def test_wandb_that_does_not_answer_is_no_reason_to_rent(tmp_path, monkeypatch):
    market = Market([["running", "running", "running", "done"]])
    silent = [3]
    answer = market.progress

    def progress():
        silent[0] -= 1
        if silent[0] >= 0:
            raise TrackingUnavailable("W&B could not be asked")
        return answer()

    monkeypatch.setattr(market, "progress", progress)

    rental(market, tmp_path).run()

    assert (len(market.created), market.live) == (1, {})


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        (Limits(poll_s=0, max_usd=0), "max-total-cost"),
        (Limits(poll_s=0, max_hours=0), "max-hours"),
        (Limits(poll_s=0, lost_after_s=0, backoff_s=(0,), max_machines=3), "limit of 3 machines"),
    ],
)
def test_every_limit_ends_the_launch_and_gives_everything_back(tmp_path, limits, named):
    market = Market([["running", "away"]] * 10)

    with pytest.raises(BudgetSpent, match=named):
        rental(market, tmp_path, limits=limits).run()

    assert market.live == {}


def test_a_machine_that_cannot_be_given_back_is_named(tmp_path):
    market = Market([["running", "done"]], destroy_raises=True)

    with pytest.raises(ProviderError, match="1000 is not destroyed"):
        rental(market, tmp_path).run()


class Killed(BaseException):
    """The controller ends here, as by kill -9: nothing of it runs any more."""


@pytest.mark.parametrize("moment", ["RENTING", "rented", "BOOTING", "RUNNING", "ENDED", "DESTROYING", "SEARCHING"])
def test_a_controller_that_was_killed_adopts_or_gives_back_and_never_has_two(tmp_path, monkeypatch, moment):
    market = Market([["booting", "running", "away"], ["running", "running", "done"], ["running", "done"]])
    seen = []

    def die(state, facts):
        seen.append(state)
        if state == moment and len(seen) > 1:
            raise Killed

    first = rental(market, tmp_path, show=die)
    first.fleet.destroy_all = lambda: None  # a killed controller gives nothing back
    note = first.journal.note

    def note_until_killed(event, *arguments, **values):
        if event == "closed":
            return
        if event == moment:
            raise Killed  # after renting, before it is noted
        note(event, *arguments, **values)

    first.journal.note = note_until_killed
    with pytest.raises(Killed):
        first.run()

    rental(market, tmp_path).run()

    assert market.live == {}
    assert market.most_live == 1


def test_an_order_that_was_cut_off_is_looked_for_again_when_the_list_is_wrongly_empty(tmp_path):
    market = Market([["running", "done"], ["running", "done"]])
    unfinished = rental(market, tmp_path)
    note = unfinished.journal.note
    unfinished.fleet.destroy_all = lambda: None
    unfinished.journal.note = lambda event, *rest, **values: (
        die_when(event == "rented") if event in ("rented", "closed") else note(event, *rest, **values)
    )
    with pytest.raises(Killed):
        unfinished.run()
    market.list_empty = LIST_TRIES - 1

    rental(market, tmp_path).run()

    assert (len(market.created), market.most_live, market.live) == (1, 1, {})


def test_what_stays_is_named_although_the_list_is_refused(tmp_path):
    market = Market([["running", "done"]], destroy_raises=True)

    def refuse(prefix):
        if market.created:
            raise ProviderRefused("the key is refused")
        return []

    market.list_instances = refuse  # type: ignore[method-assign]  # this one market refuses

    with pytest.raises(ProviderError, match=r"1000 is not destroyed.*the key is refused"):
        rental(market, tmp_path).run()


def test_one_machine_that_stays_does_not_keep_the_others(tmp_path):
    market = Market([["running", "done"]])
    stubborn = Instance("5", "5", f"{label_prefix('p/r1')}0", "running", "", True, 0.2)
    destroy = market.destroy

    def refuse(instance_id):
        if instance_id == "5":
            raise ProviderError("instance 5 is not destroyed, and costs money")
        destroy(instance_id)

    controller = rental(market, tmp_path)
    controller.provider = market
    market.destroy = refuse  # type: ignore[method-assign]  # this one market refuses

    def then_strange(state, facts):
        market.live["5"] = stubborn
        market.left["5"] = ["running"]

    controller.show = then_strange
    with pytest.raises(ProviderError, match="instance 5"):
        controller.run()

    assert list(market.live) == ["5"]


@pytest.mark.parametrize("end", ["failed", "away"])
def test_an_outbid_machine_is_lost_and_not_broken_however_its_state_is_called(tmp_path, end):
    market = Market([["running", "running", end]] * 5 + [["running", "done"]])

    rental(market, tmp_path).run()

    assert (len(market.created), market.live) == (6, {})


def test_a_machine_without_cuda_is_not_rented_again(tmp_path):
    market = Market([["running", "exit 76"], ["running", "exit 76"], ["running", "done"]])
    controller = rental(market, tmp_path)

    controller.run()

    machines = [entry["offer"]["machine_id"] for entry in lines(tmp_path) if entry["event"] == "renting"]
    assert machines == ["0", "1", "2"]


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "rented.jsonl").read_text("utf-8").splitlines()]


def test_a_machine_that_does_nothing_is_given_up(tmp_path):
    market = Market([["running"], ["running", "done"]])

    rental(market, tmp_path, limits=Limits(**{**vars(QUICK), "silence_timeout_s": 1.0})).run()

    assert (len(market.created), market.live) == (2, {})


def test_what_an_earlier_launch_ended_with_says_nothing_of_this_one(tmp_path):
    market = Market([["running", "done"]], generation=7, outcome=(1, 0))

    rental(market, tmp_path).run()

    assert (len(market.created), market.generation) == (1, 8)


def test_a_training_that_finished_while_nobody_watched_is_not_rented_again(tmp_path):
    market = Market([["booting", "running", "done"]])
    kill_controller_at("RUNNING", market, tmp_path)
    market.outcome, market.live = (1, 0), {}

    rental(market, tmp_path).run()

    assert len(market.created) == 1


def die_when(is_time):
    if is_time:
        raise Killed


def kill_controller_at(moment, market, tmp_path):
    """Carry out until it tells this state, then leave all as kill -9 does: nothing is given back or closed."""
    first = rental(market, tmp_path, show=lambda state, facts: die_when(state == moment))
    first.fleet.destroy_all = lambda: None
    note = first.journal.note
    first.journal.note = lambda event, *rest, **values: None if event == "closed" else note(event, *rest, **values)
    with pytest.raises(Killed):
        first.run()


def test_wandb_that_is_away_while_renting_is_waited_for(tmp_path, monkeypatch):
    market = Market([["running", "away"], ["running", "done"]])
    away, acquire_fence = [2], market.acquire_fence

    def claim_at_last(generation):
        away[0] -= 1
        if away[0] >= 0:
            raise TrackingUnavailable("W&B could not be asked")
        acquire_fence(generation)

    monkeypatch.setattr(market, "acquire_fence", claim_at_last)

    rental(market, tmp_path).run()

    assert (len(market.created), market.live) == (2, {})


def test_a_launch_that_a_signal_stopped_goes_on_with_its_run_and_its_budget(tmp_path):
    market = Market([["running", "running"], ["running", "done"]])

    def stop(state, facts):
        if state == "RUNNING":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rental(market, tmp_path, show=stop).run()
    assert market.live == {}
    journal = Journal(tmp_path / "rented.jsonl")
    assert (journal.open_job, journal.rented()) == (market.identity(), 1)

    rental(market, tmp_path).run()

    assert (len(market.created), market.live, market.generation) == (2, {}, 2)
    assert Journal(tmp_path / "rented.jsonl").open_job is None


def test_a_second_controller_in_the_same_folder_is_refused(tmp_path):
    with (
        exclusive_controller(tmp_path / "rented.jsonl"),
        pytest.raises(BadInput, match="another launch is at work"),
        exclusive_controller(tmp_path / "rented.jsonl"),
    ):
        pytest.fail("two controllers")


def test_a_controller_that_follows_a_living_one_waits_for_its_end(tmp_path, caplog):
    path, followed = tmp_path / "rented.jsonl", threading.Event()

    def follow():
        with exclusive_controller(path, wait_s=WITHIN_S):
            followed.set()

    with exclusive_controller(path):
        other = threading.Thread(target=follow)
        other.start()
        while "waiting for its end" not in caplog.text:
            assert other.is_alive()
            time.sleep(0.001)
        too_early = followed.is_set()
    other.join(WITHIN_S)

    assert not too_early
    assert followed.is_set()


def attempt(chain, number):
    return ChainRun(chain, f"{chain}{number}", number, most=100, most_per_day=100)


def test_a_crash_that_is_reported_after_the_end_of_the_launch_rents_nothing(tmp_path):
    journal = Journal(tmp_path / "rented.jsonl")
    for this in (attempt("first", 1), attempt("first", 2), attempt("of a person", 1)):
        journal.join(this)
    market = Market([["running", "done"]])

    rental(market, tmp_path).run()

    again = Journal(tmp_path / "rented.jsonl")
    for chain in ("first", "of a person"):
        with pytest.raises(Duplicate, match=f"the launch of chain {chain} has come to its end already; .* new run"):
            again.join(attempt(chain, 2))
    again.join(attempt("another", 2))


def test_the_first_of_a_chain_may_be_run_again_by_a_person_and_is_followed_again(tmp_path):
    Journal(tmp_path / "rented.jsonl").join(attempt("first", 1))
    rental(Market([["running", "done"]]), tmp_path).run()

    for number in (1, 2):
        Journal(tmp_path / "rented.jsonl").join(attempt("first", number))


def test_a_chain_that_gives_up_leaves_no_machine(tmp_path):
    market = Market([["running", "running"]])
    unfinished = rental(market, tmp_path, show=lambda state, facts: die_when(state == "RUNNING"))
    unfinished.fleet.destroy_all = lambda: None
    with pytest.raises(Killed):
        unfinished.run()
    left = len(market.live)

    rental(market, tmp_path).give_up()

    assert (left, len(market.created), market.live) == (1, 1, {})
    assert Journal(tmp_path / "rented.jsonl").open_job is None


def test_a_machine_of_another_run_is_not_touched(tmp_path):
    market = Market([["running", "done"]])
    market.live["7"] = Instance("7", "7", f"{label_prefix('p/r2')}1", "running", "", True, 0.2)
    market.left["7"] = ["running"]

    rental(market, tmp_path).run()

    assert list(market.live) == ["7"]


def test_the_journal_holds_no_secret_and_is_written_before_the_money_is_spent(tmp_path):
    market = Market([], rent_raises=[Killed()])

    with pytest.raises(Killed):
        rental(market, tmp_path).run()

    text = (tmp_path / "rented.jsonl").read_text("utf-8")
    assert '"renting"' in text
    assert "secret" not in text
    assert market.environments[0]["WANDB_API_KEY"] == "secret"


def test_a_new_launch_has_a_budget_of_its_own(tmp_path):
    rental(Market([["running", "done"]]), tmp_path).run()
    journal = Journal(tmp_path / "rented.jsonl")

    assert journal.machines == {}
    assert journal.open_job is None
    assert journal.generation == 1


def test_the_script_is_short_enough_to_be_sent_and_holds_no_key():
    script = onstart()

    assert len(script) < MAX_ONSTART_CHARS
    assert script.startswith("#!/usr/bin/env bash")
    assert "WANDB_API_KEY" not in script


def test_a_launch_after_one_that_was_completed_trains_what_is_left_of_the_run(tmp_path):
    market = Market([["running", "done"], ["running", "done"]])
    rental(market, tmp_path).run()

    rental(market, tmp_path).run()  # the outcome in W&B is still that of the first

    assert (len(market.created), market.live) == (2, {})


def test_a_refused_order_costs_nothing(tmp_path):
    market = Market([], rent_raises=[ProviderError("HTTP 400: no")])

    with pytest.raises(ProviderError, match="400"):
        rental(market, tmp_path).run()

    [launch] = Journal(tmp_path / "rented.jsonl").launches()
    assert [machine.destroyed_at is None for machine in launch.machines] == [False]


def test_hours_do_not_run_while_a_launch_is_stopped_and_has_no_machine(tmp_path):
    path = tmp_path / "rented.jsonl"
    hour, job = 3600.0, {"run": "p/r1"}
    began = time.time() - 50 * hour
    events = [
        {"event": "began", "generation": 0, "time": began, "job": job},
        {"event": "renting", "generation": 1, "time": began, "label": "l", "offer": {}, "usd_per_hour": 1.0},
        {"event": "given back", "generation": 1, "time": began + hour},
        {"event": "began", "generation": 1, "time": began + 49 * hour, "job": job},
    ]
    path.write_text("".join(json.dumps(event) + "\n" for event in events), "utf-8")

    assert Journal(path).hours() == pytest.approx(2.0, abs=0.1)


def test_what_may_still_cost_is_named_where_a_signal_ended_a_launch(tmp_path):
    journal = Journal(tmp_path / "rented.jsonl")
    journal.note("began", job={"run": "p/r1"})
    journal.note("renting", 1, label="l", offer={}, usd_per_hour=1.0)
    journal.note("rented", id="77")

    assert "may cost: 77; run the same command" in stopped(journal)
    journal.note("given back")
    assert "the machines are destroyed" in stopped(journal)
