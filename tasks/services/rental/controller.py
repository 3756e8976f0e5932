"""One training on rented machines, from the first offer to the last machine destroyed, whatever happens between."""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from tasks.services.rental.budget import Budget
from tasks.services.rental.choosing.buyer import Buyer
from tasks.services.rental.choosing.market import Market
from tasks.services.rental.choosing.pace import PaceMeter, Work
from tasks.services.rental.choosing.terms import Terms
from tasks.services.rental.claims import Claim, TakenOver
from tasks.services.rental.credit import CreditWatch
from tasks.services.rental.fleet import Fleet
from tasks.services.rental.health import (
    START,
    Observation,
    Position,
    Verdict,
    is_final_refusal,
    verdict_of,
    verdict_on_exit,
)
from tasks.services.rental.job import Job
from tasks.services.rental.journal import Journal, PaceSeen
from tasks.services.rental.limits import Limits
from tasks.services.rental.machine_log import exit_code_in, last_line_of, saved_log, signs_in, traffic_in
from tasks.services.rental.provider import (
    Instance,
    KeyRefused,
    MachineSpec,
    Offer,
    Provider,
    ProviderError,
    UnknownOutcome,
)
from tasks.services.run.retry import retrying
from tasks.services.run.uninterrupted import uninterrupted
from tasks.services.tracking.protocols import RemoteProgress, TrackingUnavailable
from ups_models.errors import UPSError
from ups_models.files import write_text
from ups_models.wording import plain

logger = logging.getLogger(__name__)

CLAIM_AGAIN_S = 60.0
LOG_LINES = 8
"""So many of the machine's last lines are shown."""
Show = Callable[[str, Mapping[str, Any]], None]
"""(state, facts): what a person watching is shown."""


NO_TERMS = Terms(Work(()))


class TrainingFailed(UPSError):
    """The training itself ended with an error, or machine after machine did."""


@dataclass
class Controller:
    """Rents one machine after another until the training is complete; every machine that it rents it destroys."""

    provider: Provider
    spec: MachineSpec
    job: Job
    onstart: str
    journal: Journal
    limits: Limits = field(default_factory=Limits)
    keep_on_failure: bool = False
    auto_shutdown: bool = True
    show: Show = lambda state, facts: None
    provider_name: str = ""
    claim: Claim | None = None
    adopt_unknown: bool = False
    """Whether a machine of the run that another controller rented is gone on with."""
    terms: Terms = NO_TERMS
    noted: Mapping[str, Any] = field(default_factory=dict)
    """What the journal keeps beside the job, so that it means the same when the launch is gone on with."""
    budget: Budget | None = None
    others: tuple[PaceSeen, ...] = ()
    """What machines of other launches reached."""
    pause: Callable[[float], None] = time.sleep
    errors: int = 0
    """In a row, without progress."""
    ended_at: Position = START
    failed_at: Position | None = None
    log: list[str] = field(default_factory=list)
    last_log_line: str = ""
    traffic: tuple[int, int] | None = None
    """Bytes that the newest machine says it has received and sent."""
    kept: bool = False
    refused_since: float | None = None
    """When the provider began to refuse the key, while machines were rented with it."""

    def __post_init__(self) -> None:
        self.credit = CreditWatch(self.provider)
        exhausted = partial(self.journal.note, "market exhausted")
        market = Market(self.provider, self.spec, self.journal, self._endure, exhausted)
        self.buyer = Buyer(market, self.journal, self.terms, self.others)
        self.fleet = Fleet(self.provider, self.journal, self.job.identity()["run"], self.limits, self.pause)

    def run(self) -> None:
        """Train to the end. Raises TrainingFailed, BudgetSpent, NoOffer, ProviderRefused; no machine is left then.

        Raises TakenOver where another controller has taken the run over: the machines are that one's then.
        """
        self.journal.note("began", job=self.job.identity(), provider=self.provider_name, **self.noted)
        try:
            self._train()
        finally:
            error = sys.exception()
            if isinstance(error, TakenOver):
                self._hand_over()
            elif not self.kept:
                uninterrupted(lambda _: self.fleet.destroy_all())  # a second Ctrl-C leaves none behind
            if self.budget is not None:
                self.budget.settle(self.journal.spent_usd(), at_end=True)
            if self.claim is not None and not isinstance(error, TakenOver):
                self.claim.release()
            if error is None or isinstance(error, Exception):  # after a signal the launch stays open for the next one
                self.journal.note("closed")  # a machine that was kept is its owner's business

    def _hand_over(self) -> None:
        for machine in self.journal.not_destroyed():
            self.journal.note("handed over", machine.generation)

    def give_up(self) -> None:
        """Destroy everything that an earlier controller left, and close the launch. Raises ProviderError."""
        self.fleet.destroy_all()
        self.journal.note("closed")

    def _train(self) -> None:
        instance_id = self.fleet.adopt(fence=self._fence() if self.adopt_unknown else None)
        if instance_id is None and self._has_finished():
            return  # while nobody was watching
        while True:
            self._require_budget()
            if instance_id is None:
                instance_id = self._rent()
                self.log, self.last_log_line, self.traffic = [], "", None
            verdict = self._watch(instance_id)
            if verdict.end == "completed":
                self._save_log(instance_id)
                self.kept = not self.auto_shutdown
                if self.kept:
                    self.journal.note("kept")
                    logger.warning("the training is complete; %s", self._keeps(instance_id))
                return
            self._after(verdict, instance_id)
            instance_id = None

    def _after(self, verdict: Verdict, instance_id: str) -> None:
        """Destroy a machine that is of no more use. Raises TrainingFailed where another one would not help."""
        if verdict.why:
            logger.warning("instance %s %s", instance_id, verdict.why)
        if verdict.exclude:
            self.journal.note("excluded")
        if verdict.is_error:
            self._keep_log(instance_id)
        else:
            self._save_log(instance_id)
        if verdict.end == "failed" and self.keep_on_failure:
            self.kept = True
            self.journal.note("kept")
            raise TrainingFailed(f"the training failed{self.last_log_line}; {self._keeps(instance_id)}")
        self.show("DESTROYING", {"id": instance_id})
        self.fleet.destroy(instance_id)
        self.show("ENDED", {"end": verdict.end})
        self._count(verdict)

    def _count(self, verdict: Verdict) -> None:
        """Count errors in a row without progress. Raises TrainingFailed when there are too many."""
        progress = self._progress()
        if progress is not None and _position(progress) != self.ended_at:
            self.errors, self.ended_at = 0, _position(progress)
        if not verdict.is_error:
            return
        self.errors += 1
        if verdict.fatal or self.errors >= self.limits.max_errors:
            why = verdict.fatal or f"{self.errors} errors without progress, the last machine {verdict.why}"
            raise TrainingFailed(f"the training failed: {why}{self.last_log_line or '; see the W&B run'}")
        self._wait(self.limits.backoff(self.errors - 1))

    def _rent(self) -> str:
        """Search and rent, until there is a machine or a limit is reached."""
        failures = 0
        while True:
            self._require_budget(renting=True)
            self.show("SEARCHING", {"attempt": failures + 1})
            offer = self.buyer.pick()
            if offer is not None:
                self.credit.require_hour(offer.usd_per_hour)
                generation = self._next_generation()
                self.show("RENTING", {"offer": asdict(offer), "generation": generation})
                self._acquire_fence(generation)
                environment = self.job.environment(generation) | offer.environment()
                instance_id = self._order(offer, generation, environment)
                if instance_id is not None:
                    self._require_bid(instance_id)
                    return instance_id
            self._wait(self.buyer.wait_s(self.limits.backoff(failures)))
            failures += 1

    def _order(self, offer: Offer, generation: int, environment: Mapping[str, str]) -> str | None:
        """Rent the offer; None: there is no machine."""
        try:
            return self.fleet.rent(offer, self.spec, generation, self.onstart, environment)
        except KeyRefused as error:
            self._endure(error)
            return None

    def _require_bid(self, instance_id: str) -> None:
        """Raise ProviderError for a bid that became an order on demand, at three times the price."""
        instance, _ = self._look(instance_id)
        was_bid = self.journal.machines[self.journal.generation].offer.get("is_bid")
        if instance is not None and was_bid and not instance.is_bid:
            raise ProviderError(f"instance {instance_id} was rented on demand though a bid was asked for; given back")

    def _watch(self, instance_id: str) -> Verdict:
        """Look at the newest machine until its job has ended, or the machine is of no more use."""
        meter = PaceMeter(self.terms.work, self.buyer.position)
        try:
            return self._watched(instance_id, meter)
        finally:
            self._note_pace(meter)
            self.journal.note_traffic(self.traffic, at_least=1)

    def _watched(self, instance_id: str, meter: PaceMeter) -> Verdict:
        seen, generation = Observation.begin(time.monotonic()), self.journal.generation
        while True:
            self._require_budget()
            progress = self._progress()
            if progress is not None:
                self.buyer.position = _position(progress)
                meter.see(_position(progress), time.time())
            lines = self._read_log(instance_id) if seen.was_running else []
            code = self._exit_code(progress, lines)
            if code is not None:
                verdict = verdict_on_exit(code, _position(progress), self.failed_at)
                self.failed_at = _position(progress) if verdict.end == "failed" else self.failed_at
                return verdict
            if progress is not None and progress.generation < generation:
                self._acquire_fence(generation)  # an earlier machine, still alive, has written its config again
            instance, is_known = self._look(instance_id)
            self._report(instance, progress)
            if instance is not None:
                position = _position(progress) if progress is not None else None
                seen = seen.then(instance.state, instance.detail, position, time.monotonic(), signs_in(lines))
                if (finding := self._verdict(seen)) is not None:
                    return finding
            elif is_known:
                return Verdict("completed" if self._has_finished() else "lost")
            self.pause(self.limits.poll_s)

    def _verdict(self, seen: Observation) -> Verdict | None:
        """The verdict on a machine; one that was taken away may be waited for, and a sound one be replaced."""
        finding = verdict_of(seen, self.limits)
        if finding is not None and finding.end != "lost":
            return finding
        if finding is None and seen.away_since is not None:
            return None
        machine = self.journal.machines[self.journal.generation]
        advice, why = self.buyer.review(machine, is_away=finding is not None)
        return (finding or Verdict("replaced", why)) if advice == "leave" else None

    def _note_pace(self, meter: PaceMeter) -> None:
        """Write what the machine reached into the journal: it tells what the next one is worth."""
        machine = self.journal.machines[self.journal.generation]
        steps, seconds = meter.measured()
        if meter.first is not None:
            startup_s = meter.first[1] - machine.rented_at
            run, gpu = self.job.identity()["run"], machine.offer.get("gpu", "")
            self.journal.note("pace", run=run, gpu=gpu, steps=steps, seconds=seconds, startup_s=startup_s)

    def _exit_code(self, progress: RemoteProgress | None, lines: list[str]) -> int | None:
        """The exit code of the newest machine's job: from the run, or else from the machine's own log."""
        generation = self.journal.generation
        if progress is not None and progress.outcome is not None and progress.outcome[0] == generation:
            return progress.outcome[1]
        return exit_code_in(lines, generation)

    def _read_log(self, instance_id: str) -> list[str]:
        """The newest lines of a machine's log; none where it cannot be read."""
        lines = self.provider.logs(instance_id).splitlines()
        if (signs := signs_in(lines)) is not None:
            self.log = [plain(line) for line in signs.lines[-LOG_LINES:]]
            self.traffic = traffic_in(signs) or self.traffic
            self.journal.note_traffic(self.traffic)
        return lines

    def _keep_log(self, instance_id: str) -> None:
        """Say what a machine wrote before it failed: it says why."""
        if last := last_line_of(self._save_log(instance_id)):
            path = saved_log(self.journal.path, self.journal.generation)
            self.last_log_line = f"; its last line: {last}; the lines before it: {path}"
            logger.warning("machine %d failed%s", self.journal.generation, self.last_log_line)

    def _save_log(self, instance_id: str) -> str:
        """Save what a machine wrote beside the journal, for it goes with the machine; returns it."""
        text = self.provider.logs(instance_id)
        if last_line_of(text):
            write_text(saved_log(self.journal.path, self.journal.generation), text)
        return text

    def _keeps(self, instance_id: str) -> str:
        price = self.journal.machines[self.journal.generation].now_usd_per_hour
        return f"instance {instance_id} is kept as asked and costs {price:.3f} USD/h until `ups destroy {instance_id}`"

    def _look(self, instance_id: str) -> tuple[Instance | None, bool]:
        """The instance, and whether the answer proves anything."""
        try:
            instance = self.provider.describe(instance_id)
        except UnknownOutcome as error:
            logger.warning("%s: nothing is concluded from that", error)
            return None, False
        except KeyRefused as error:
            self._endure(error)
            return None, False
        self.refused_since = None
        return instance, True

    def _endure(self, error: KeyRefused) -> None:
        """Go on after a refused key, for a while; raises it before the first machine, and once it has lasted."""
        now = time.monotonic()
        self.refused_since = now if self.refused_since is None else self.refused_since
        if not self.journal.rented() or is_final_refusal(self.refused_since, now, self.limits):
            raise error
        logger.warning("%s: refused with a key that was good before; asking again", error)

    def _acquire_fence(self, generation: int) -> None:
        retrying(self.limits.backoff_s, TrackingUnavailable, pause=self.pause)(self.job.acquire_fence, generation)

    def _next_generation(self) -> int:
        """One more than the newest that the journal or the run knows of, rented from here or from elsewhere."""
        return 1 + max(self.journal.highest, self._fence())

    def _fence(self) -> int:
        """The generation that may write to the run, as far as W&B answers; 0 where nobody has asked yet."""
        progress = self._progress(self.limits.backoff_s)
        return progress.generation if progress is not None else 0

    def _has_finished(self) -> bool:
        """Whether the run says that the job of this launch's newest machine is complete; one before proves nothing."""
        generation = self.journal.generation
        progress = self._progress(self.limits.backoff_s) if generation in self.journal.machines else None
        return progress is not None and progress.outcome == (generation, 0)

    def _progress(self, pauses_s: tuple[float, ...] = ()) -> RemoteProgress | None:
        """How far the run is; None where it cannot be asked, even after the pauses."""
        try:
            progress = retrying(pauses_s, TrackingUnavailable, pause=self.pause)(self.job.progress)
        except TrackingUnavailable as error:
            logger.warning("%s", error)
            return None
        if self.claim is not None:
            self.claim.keep(progress)
        return progress

    def _wait(self, seconds: float) -> None:
        """Pause, and keep the claim on the run meanwhile. Raises TakenOver."""
        while self.claim is not None and seconds > 0:
            self.pause(min(seconds, CLAIM_AGAIN_S))
            seconds -= CLAIM_AGAIN_S
            self._progress()
        if self.claim is None:
            self.pause(seconds)

    def _require_budget(self, *, renting: bool = False) -> None:
        spent, hours, rented = self.journal.spent_usd(), self.journal.hours(), self.journal.rented()
        if self.budget is not None:
            self.budget.settle(spent)
            self.budget.require(spent)
        run = self.job.identity()["run"]
        self.limits.require_budget(run, usd=spent, hours=hours, machines=rented if renting else 0)

    def _report(self, instance: Instance | None, progress: RemoteProgress | None) -> None:
        stage, step = _position(progress)
        machine = self.journal.machines[self.journal.generation]
        self.credit.warn(machine.now_usd_per_hour)
        facts = {
            "instance": instance.id if instance else None,
            "instance_state": instance.state if instance else "unknown",
            "generation": machine.generation,
            "stage": stage,
            "step": step,
            "usd_per_hour": machine.now_usd_per_hour,
            "spent_usd": self.journal.spent_usd(),
            "log": self.log,
        }
        self.show("RUNNING" if instance and instance.state == "running" else "BOOTING", facts)


def _position(progress: RemoteProgress | None) -> Position:
    return (progress.stage, progress.step) if progress is not None else START
