"""What a launch buys: the machine that finishes best; with a deadline also when, and at what price."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from tasks.services.rental.choosing.market import Market
from tasks.services.rental.choosing.pace import Pace, mean_pace
from tasks.services.rental.choosing.policy import TICK_H, Choice, Sightings, Situation, choose
from tasks.services.rental.choosing.policy import Machine as Kind
from tasks.services.rental.choosing.ranking import Prospect, Ranking
from tasks.services.rental.choosing.terms import Terms, at
from tasks.services.rental.health import START, Position
from tasks.services.rental.journal import Journal, Machine, PaceSeen
from tasks.services.rental.provider import NoOffer, Offer, ProviderError, Rebiddable, UnknownOutcome
from ups_models.errors import BadInput

logger = logging.getLogger(__name__)

STARTUP_H = 0.1
"""From the order of a machine to its first step: stated, before the first was measured."""
RETURN_H = 0.03
"""The same for a machine that comes back with all that is on its disk: stated."""
AFTERWARDS_H = 0.25
"""Kept free before a deadline for the evaluations and the report: stated."""
TICK_S, AWAY_AGAIN_S = 3600 * TICK_H, 60.0

Advice = Literal["keep", "leave", "wait"]


@dataclass(frozen=True)
class Decision:
    """What to do now, and why."""

    kind: Kind
    why: str
    prospect: Prospect | None


@dataclass
class Buyer:
    """Asks the market, and decides; what it decides is in the journal with its reason."""

    market: Market
    journal: Journal
    terms: Terms
    others: tuple[PaceSeen, ...] = ()
    """Of other launches."""
    now: Callable[[], float] = time.time
    seen: Sightings = field(default_factory=Sightings)
    looked_at: float = -math.inf
    position: Position = START
    ordered_at: Position = START
    """Where the run was when the machine was ordered."""
    was_away: bool = False

    def pick(self) -> Offer | None:
        """What to order now; None: nothing yet. Raises what `decide` raises."""
        decision, self.ordered_at = self.decide(), self.position
        if self.terms.deadline is not None:
            self._note(decision.kind, decision.why)
        return decision.prospect.offer if decision.prospect is not None else None

    def decide(self) -> Decision:
        """What would be ordered now. Raises NoOffer, ProviderRefused, and BadInput for what cannot be reached."""
        if self.terms.deadline is None:
            kind: Kind = "spot" if self.market.spec.interruptible else "on demand"
            best = self.market.best(self.ranking(), interruptible=self.market.spec.interruptible)
            self._require_possible([best])
            return Decision(kind if best is not None else "none", self._outlook(best), best)
        spot, demand = self._both()
        self._require_possible([spot, demand])
        kind, why = self._decide("none", 0, spot, demand)
        return Decision(kind, why, {"spot": spot, "on demand": demand, "none": None}[kind])

    def _require_possible(self, found: list[Prospect | None]) -> None:
        """Refuse, before the first machine, a budget that no start fits into, and a deadline that none can meet."""
        prospects = [one for one in found if one is not None]
        if self.journal.machines or not prospects:
            return
        start_usd = min(map(self.start_usd, prospects))
        if start_usd > self.terms.max_usd:
            raise BadInput(
                f"--max-total-cost {self.terms.max_usd:g}: the start of one machine alone costs {start_usd:.3f} USD"
            )
        first = min(prospects, key=lambda one: one.hours)
        ends = self.now() + 3600 * (first.hours + AFTERWARDS_H)
        if self.terms.deadline is not None and ends > self.terms.deadline:
            kind = "by bid" if first.offer.is_bid else "on demand"
            raise BadInput(
                f"--deadline {at(self.terms.deadline)}: cannot be met: {self._outlook(first)} {kind}, so that it "
                f"is done by {at(ends)}; name a later one, choose a faster --gpu, or say with --expected-hours what it "
                "takes"
            )

    def start_usd(self, one: Prospect) -> float:
        """What a machine costs until its first step."""
        return one.offer.usd_per_hour * self.ranking().startup_h

    def _outlook(self, one: Prospect | None) -> str:
        """What a machine is expected to take and to cost."""
        if one is None:
            return "nothing on offer"
        return f"{one.hours:.1f} h and {one.usd:.2f} USD to the end ({self.pace().source(one.offer.gpu)})"

    def wait_s(self, backoff_s: float) -> float:
        """How long to wait after `pick` found nothing."""
        return backoff_s if self.terms.deadline is None else min(backoff_s, TICK_S)

    def review(self, machine: Machine, *, is_away: bool) -> tuple[Advice, str]:
        """What to do with the machine that there is, and why; looked at once a tick, and when it is taken away."""
        if self.terms.deadline is None:
            return ("leave" if is_away else "keep"), "was taken away"
        is_new, self.was_away = is_away and not self.was_away, is_away
        if not is_new and self.now() - self.looked_at < (AWAY_AGAIN_S if is_away else TICK_S):
            return ("wait" if is_away else "keep"), ""
        return self._about_lost(machine) if is_away else self._about(machine)

    def ranking(self) -> Ranking:
        """How machines compare for the work that is left."""
        left = self.terms.work.left(*self.position)
        startups = [one.startup_s for one in self._paces() if one.startup_s is not None]
        startup_h = sum(startups) / len(startups) / 3600 if startups else STARTUP_H
        return Ranking(left, self.pace(), startup_h, self.terms.usd_per_hour_sooner)

    def pace(self) -> Pace:
        """Steps a second by GPU: of this training, of others, or as its owner says."""
        run = (self.journal.open_job or {}).get("run")
        ours = mean_pace([(one.gpu, one.steps, one.seconds) for one in self._paces() if one.run == run])
        if not ours and self.terms.expected_hours is not None:
            return Pace({self.market.spec.gpus[0]: self.terms.work.total / (3600 * self.terms.expected_hours)})
        others = [(one.gpu, one.steps, one.seconds) for one in self._paces() if one.run != run]
        return Pace(ours, mean_pace(others))

    def _paces(self) -> list[PaceSeen]:
        return [*self.others, *self.journal.paces]

    def _about(self, machine: Machine) -> tuple[Advice, str]:
        """Whether a machine that is ours is left for one of the other kind."""
        spot, demand = self._both()
        has: Kind = "spot" if machine.offer.get("is_bid") else "on demand"
        began, usual_h = self.position != self.ordered_at, self.ranking().startup_h
        startup_h = 0.0 if began else usual_h - (self.now() - machine.rented_at) / 3600
        own = self._as_prospect(machine, machine.now_usd_per_hour, usual_h)  # it is not left for another of its kind
        spot, demand = (own, demand) if has == "spot" else (spot, own)
        kind, why = self._decide(has, max(0.0, startup_h), spot, demand)
        if kind in ("none", has):
            return "keep", why
        self._note(kind, why)
        return "leave", f"is left for one {'by bid' if kind == 'spot' else kind}: {why}"

    def _about_lost(self, machine: Machine) -> tuple[Advice, str]:
        """Whether a machine that was outbid is bid for again, waited for, or left for another."""
        spot, demand = self._both()
        provider, keep = self.market.provider, None
        if isinstance(provider, Rebiddable) and machine.id is not None and machine.offer.get("is_bid"):
            keep = self._price_to_keep(provider, machine)
        if keep is not None and keep <= machine.now_usd_per_hour:
            keep = None  # so much is bid already, and it does not come back
        affordable = keep is not None and keep <= self._most(demand)
        again = self._as_prospect(machine, keep, RETURN_H) if keep is not None and affordable else None
        returns = again is not None and (spot is None or self.ranking().worth(again) <= self.ranking().worth(spot))
        kind, why = self._decide("none", 0, again if returns else spot, demand)
        if kind == "spot" and returns and keep is not None and machine.id is not None:
            self._note("spot", f"the same machine for {keep:.3f} USD/h, whose disk holds everything; {why}", again=True)
            return self._bid(provider, machine, keep)
        if kind == "none" and keep is not None:
            self._note("none", f"waiting for the same machine, whose disk holds everything; {why}")
            return "wait", why
        return "leave", "was taken away"

    def _bid(self, provider: object, machine: Machine, usd_per_hour: float) -> tuple[Advice, str]:
        if not isinstance(provider, Rebiddable) or machine.id is None:
            return "leave", "was taken away"
        try:
            provider.change_bid(machine.id, usd_per_hour)
        except (UnknownOutcome, ProviderError) as error:
            logger.warning("%s", error)
            return "leave", "was taken away, and does not take a higher bid"
        self.journal.note("bid", machine.generation, usd_per_hour=usd_per_hour)
        return "wait", "more is bid for it"

    @staticmethod
    def _price_to_keep(provider: Rebiddable, machine: Machine) -> float | None:
        try:
            return provider.price_to_keep(machine.id or "")
        except (UnknownOutcome, ProviderError) as error:
            logger.warning("%s", error)
            return None

    def _most(self, demand: Prospect | None) -> float:
        most = self.market.spec.max_usd_per_hour
        return min(most, demand.offer.usd_per_hour) if demand is not None else most

    def _as_prospect(self, machine: Machine, usd_per_hour: float, startup_h: float) -> Prospect:
        """A machine that is or was ours, as if it were on offer."""
        facts = machine.offer
        number, host, gpu, region = (str(facts.get(name, "")) for name in ("id", "machine_id", "gpu", "region"))
        is_bid = bool(facts.get("is_bid"))
        offer = Offer(number, host, gpu, self.market.spec.num_gpus, usd_per_hour, region, is_bid=is_bid)
        return replace(self.ranking(), startup_h=startup_h).prospect(offer, self.market.spec)

    def _both(self) -> tuple[Prospect | None, Prospect | None]:
        """The best by bid and the best on demand; whether there is one by bid is remembered, tick by tick."""
        ranking, found, refused = self.ranking(), list[Prospect](), list[NoOffer]()
        for interruptible in (True, False) if self.market.may_bid else (False,):
            try:
                found += self.market.offers(ranking, interruptible=interruptible)
            except NoOffer as error:
                refused.append(error)
        if not found and refused:
            raise refused[-1]
        spot = next((one for one in found if one.offer.is_bid), None)
        demand = next((one for one in ranking.sorted(found) if not one.offer.is_bid), None)
        ticks = 1 if self.looked_at == -math.inf else max(1, round((self.now() - self.looked_at) / TICK_S))
        for _ in range(min(ticks, 12)):
            self.seen = self.seen.then(spot is not None)
        self.looked_at = self.now()
        return spot, demand

    def _decide(self, has: Kind, ready_h: float, spot: Prospect | None, demand: Prospect | None) -> tuple[Kind, str]:
        """The kind to buy, and why; what the budget does not allow is not to be had."""
        left_usd = self.terms.max_usd - self.journal.spent_usd()
        if demand is not None and demand.usd > left_usd:
            demand = None
        if demand is None or self.terms.deadline is None:
            return ("spot", "none on demand is to be had within the budget") if spot is not None else ("none", "none")
        if not self.market.may_bid:
            return "on demand", f"nothing is bid for; {self._outlook(demand)}"
        hours = (self.terms.deadline - self.now()) / 3600 - AFTERWARDS_H
        if hours < demand.hours - (self.ranking().startup_h if has == "on demand" else 0.0):
            kind: Kind = (
                has if has != "none" else "spot" if spot is not None and spot.hours <= demand.hours else "on demand"
            )
            return kind, "the deadline cannot be met any more: as soon as possible"
        choice = self._choice(has, ready_h, spot, demand, hours)
        return choice.machine, self._reason(choice, spot, demand, hours)

    def _choice(self, has: Kind, ready_h: float, spot: Prospect | None, demand: Prospect, hours: float) -> Choice:
        startup_h = self.ranking().startup_h
        situation = Situation(
            machine=has,
            ready_in=math.ceil(ready_h / TICK_H),
            available=spot is not None,
            price=spot.offer.usd_per_hour / demand.offer.usd_per_hour if spot is not None else 1.0,
            work_left=max(1, math.ceil((demand.hours - startup_h) / TICK_H)),
            time_left=max(1, math.floor(hours / TICK_H)),
            changeover=max(1, math.ceil(startup_h / TICK_H)),
        )
        return choose(situation, self.seen)

    def _reason(self, choice: Choice, spot: Prospect | None, demand: Prospect, hours: float) -> str:
        prices = f"{spot.offer.usd_per_hour:.3f} USD/h by bid, " if spot is not None else "none by bid, "
        usd = {kind: ticks * TICK_H * demand.offer.usd_per_hour for kind, ticks in choice.expected.items()}
        expected = ", ".join(f"{kind} {value:.2f}" for kind, value in usd.items())
        return (
            f"{demand.hours:.1f} h of work ({self.pace().source(demand.offer.gpu)}), {hours:.1f} h left; {prices}"
            f"{demand.offer.usd_per_hour:.3f} on demand; expected to the end in USD: {expected}"
        )

    def _note(self, kind: Kind, why: str, *, again: bool = False) -> None:
        """Write a decision down, once where it stays the same."""
        if again or not self.journal.decision.startswith(f"{kind}:"):
            self.journal.note("decided", choice=kind, why=why)
            logger.info("decided: %s (%s)", kind, why)
