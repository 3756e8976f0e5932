"""One training on rented machines, from the first offer to the last machine given back, whatever happens between."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from tasks.services.rental.bundle import label_of, label_prefix
from tasks.services.rental.providers.vast import (
    Instance,
    MachineSpec,
    NoOffer,
    Offer,
    OfferGone,
    Provider,
    ProviderError,
    ProviderRefused,
    UnknownOutcome,
)
from tasks.services.run.attempts import ChainRun, Duplicate
from tasks.services.run.clock import utc_now
from tasks.services.tracking.protocols import RemoteProgress, TrackingUnavailable
from ups_models.errors import BadInput, UPSError
from ups_models.files import write_text

logger = logging.getLogger(__name__)

NO_CUDA, NOT_FETCHED, PREEMPTED, BAD_INPUT = 76, 77, 75, 2
FAULTS_OF_THE_MACHINE = {NO_CUDA: "had no CUDA device", NOT_FETCHED: "could not fetch or install its job"}
ONSTART = "ups-onstart: "
MARK = f"{ONSTART}exit "
LIST_TRIES = 3
LOG_LINES, MAX_LOG_LINE = 8, 300

End = Literal["lost", "broken", "preempted", "failed"]


class TrainingFailed(UPSError):
    """The training itself ended with an error, on a machine that was well."""


class BudgetSpent(UPSError):
    """A limit that was given is reached; what is trained is safe in W&B."""


@dataclass(frozen=True)
class Limits:
    """What one training may cost, in every currency."""

    max_usd: float = 20.0
    max_hours: float = 24.0
    max_machines: int = 50
    max_errors: int = 3
    boot_timeout_s: float = 1200.0
    stalled_after_s: float = 3600.0
    lost_after_s: float = 120.0
    poll_s: float = 10.0
    backoff_s: tuple[float, ...] = (15.0, 30.0, 60.0, 120.0, 300.0, 600.0)


@dataclass
class Machine:
    """A machine as the journal knows it."""

    generation: int
    label: str
    offer: dict[str, Any]
    usd_per_hour: float
    rented_at: float
    id: int | None = None
    destroyed_at: float | None = None

    def usd(self, now: float) -> float:
        """What it has cost until now, by our own clock and the price that was agreed."""
        return self.usd_per_hour * max(0.0, (self.destroyed_at or now) - self.rented_at) / 3600


class Journal:
    """What was rented, on disk before the money is spent; a controller that starts again begins by reading it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.machines: dict[int, Machine] = {}
        self.generation = 0
        self.started_at = time.time()
        self.open_job: dict[str, str] | None = None
        self.chains: set[str] = set()
        self.closed_chains: set[str] = set()
        self.excluded: set[int] = set()
        for entry in self._entries():
            self._apply(entry)

    def note(self, event: str, generation: int, **values: Any) -> None:
        """Write one event, flushed to the disk, and take it over."""
        entry = {"event": event, "generation": generation, "time": time.time(), "at": utc_now(), **values}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._apply(entry)

    def answer(self, attempt: ChainRun) -> None:
        """Note that a chain of controllers is at work, each begun by itself after the one before died.

        Raises Duplicate when its launch has come to its end: a crash may be reported late, or twice. The first of a
        chain is another matter: a person runs it again.
        """
        if attempt.has_predecessor and attempt.chain in self.closed_chains:
            raise Duplicate(
                f"{self.path}: the launch of chain {attempt.chain} has come to its end already; for another, start a "
                "new run"
            )
        if attempt.chain not in self.chains:
            self.note("answers", self.generation, chain=attempt.chain)

    def rented(self) -> int:
        """How many machines there were; an order that came to nothing is none."""
        return sum(machine.id is not None for machine in self.machines.values())

    def spent_usd(self) -> float:
        """All machines together."""
        return sum(machine.usd(time.time()) for machine in self.machines.values())

    def _entries(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        entries = []
        for line in self.path.read_text("utf-8").splitlines():
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # half a line of a killed controller: the action that it announces had not begun
        return entries

    def _apply(self, entry: Mapping[str, Any]) -> None:
        number = int(entry["generation"])
        self.generation = max(self.generation, number)
        if entry["event"] == "began" and self.open_job != entry["job"]:
            self.open_job, self.started_at = dict(entry["job"]), float(entry["time"])
        elif entry["event"] == "answers":
            self.chains.add(str(entry["chain"]))
            self.closed_chains -= self.chains
        elif entry["event"] == "closed":
            self.closed_chains, self.chains = self.closed_chains | self.chains, set()
            self.machines, self.open_job, self.excluded = {}, None, set()  # a new launch has a budget of its own
        elif entry["event"] == "market exhausted":
            self.excluded = set()  # all have failed once: better again than never
        elif entry["event"] == "renting":
            offer = dict(entry["offer"])
            self.machines[number] = Machine(
                number, str(entry["label"]), offer, float(entry["usd_per_hour"]), float(entry["time"])
            )
        elif number in self.machines:
            self._apply_to(self.machines[number], entry)

    def _apply_to(self, machine: Machine, entry: Mapping[str, Any]) -> None:
        if entry["event"] == "rented":
            machine.id = int(entry["id"])
        elif entry["event"] == "excluded":
            self.excluded.add(int(machine.offer["machine_id"]))
        elif entry["event"] == "given back":
            machine.destroyed_at = float(entry["time"])


class Job(Protocol):
    """What runs on a machine, seen from here."""

    @property
    def run_id(self) -> str:
        """The W&B run's id: all machines of one job write to it."""

    def identity(self) -> dict[str, str]:
        """What is needed to go on with it after the controller was killed; no secret is in it."""

    def acquire_fence(self, generation: int) -> None:
        """Let this attempt, and no earlier one, write to the run."""

    def environment(self, generation: int) -> dict[str, str]:
        """Variables of the machine, secrets included: made at the last moment, kept nowhere."""

    def progress(self) -> RemoteProgress:
        """How far the run is. Raises TrackingUnavailable."""


Show = Callable[[str, Mapping[str, Any]], None]
"""(state, facts): what a person watching is shown."""


@dataclass
class _Seen:
    """What was seen of a machine since it was rented, in seconds of the monotonic clock."""

    began: float
    moved_at: float
    position: tuple[str, int, str] = ("", 0, "")
    away_since: float | None = None
    was_running: bool = False


@dataclass
class Controller:
    """The controller. Every machine that it rents it gives back, and sees that it is gone."""

    provider: Provider
    wanted: MachineSpec
    job: Job
    onstart: str
    journal: Journal
    limits: Limits = field(default_factory=Limits)
    keep_on_failure: bool = False
    auto_shutdown: bool = True
    show: Show = lambda state, facts: None
    pause: Callable[[float], None] = time.sleep
    errors: int = 0
    fatal_reason: str = ""
    last_error: str = ""
    failed_at: tuple[str, int] | None = None
    ended_at: tuple[str, int] = ("", 0)
    log: list[str] = field(default_factory=list)
    last_log_line: str = ""
    kept: bool = False

    def run(self) -> None:
        """Train to the end. Raises TrainingFailed, BudgetSpent, NoOffer, ProviderRefused; no machine is left then."""
        self.journal.note("began", self.journal.generation, job=self.job.identity())
        try:
            self._train()
        finally:
            error = sys.exception()
            if not self.kept:
                self._destroy_all()
            if error is None or isinstance(error, Exception):  # stopped by a signal, the next launch goes on with it
                self.journal.note("closed", self.journal.generation)  # what was kept is its owner's business

    def give_up(self) -> None:
        """Give everything back that an earlier controller left, and close the launch. Raises ProviderError."""
        self._destroy_all()
        self.journal.note("closed", self.journal.generation)

    def _train(self) -> None:
        instance_id = self._adopt()
        if instance_id is None and self._has_finished(self.journal.generation):
            return  # while nobody was watching
        while True:
            self._require_budget()
            if instance_id is None:
                instance_id = self._rent()
                self.log, self.last_log_line = [], ""
            end = self._watch(instance_id)
            if end is None:
                self.kept = not self.auto_shutdown
                if self.kept:
                    logger.warning("the training is complete; %s", self._kept(instance_id))
                return
            if end in ("failed", "broken"):
                self._keep_log(instance_id)
            if end == "failed" and self.keep_on_failure:
                self.kept = True
                raise TrainingFailed(f"the training failed{self.last_log_line}; {self._kept(instance_id)}")
            self._destroy_current(instance_id)
            instance_id = None
            self._count(end)

    def _adopt(self) -> int | None:
        """After a restart: go on with the newest machine if it lives, and give all others back."""
        newest = self.journal.machines.get(self.journal.generation)
        adopted = None
        for instance in self._found():
            is_newest = newest is not None and newest.destroyed_at is None and instance.label == newest.label
            if is_newest and adopted is None and newest is not None and instance.state in ("running", "booting"):
                if newest.id is None:
                    self.journal.note("rented", newest.generation, id=instance.id)
                adopted = instance.id
                logger.info("going on with instance %d, rented before", instance.id)
            else:
                self._destroy(instance.id, self._generation_of(instance))
        for machine in self.journal.machines.values():
            if machine.destroyed_at is None and machine.id != adopted:
                if machine.id is not None:
                    self.provider.destroy(machine.id)
                self.journal.note("given back", machine.generation)
        return adopted

    def _rent(self) -> int:
        """Search and rent, until it works or a limit is reached; one machine at a time."""
        for attempt in range(10**6):
            self._require_budget(renting=True)
            offer = self._search(attempt)
            if offer is None:
                continue
            generation = 1 + max(self.journal.generation, self._known_generation())
            label = label_of(self.job.run_id, generation)
            self.show("RENTING", {"offer": asdict(offer), "generation": generation})
            self._acquire_fence(generation)
            price = offer.usd_per_hour
            self.journal.note("renting", generation, label=label, offer=asdict(offer), usd_per_hour=price)
            instance_id = self._create(offer, label, generation)
            if instance_id is not None:
                self.journal.note("rented", generation, id=instance_id)
                self._require_bid(instance_id)
                return instance_id
            self.journal.note("given back", generation)
            self._wait(attempt)
        raise AssertionError

    def _search(self, attempt: int) -> Offer | None:
        self.show("SEARCHING", {"attempt": attempt + 1})
        try:
            offers = self.provider.search(self.wanted)
        except NoOffer:
            if not self.journal.machines:
                raise  # nothing is lost yet: a person should choose
            self._wait(attempt)
            return None
        except UnknownOutcome as error:
            logger.warning("%s; searching again", error)
            self._wait(attempt)
            return None
        fresh = [offer for offer in offers if offer.machine_id not in self.journal.excluded]
        if not fresh:
            self.journal.note("market exhausted", self.journal.generation)
            self._wait(attempt)
            return None
        return fresh[0]

    def _create(self, offer: Offer, label: str, generation: int) -> int | None:
        """Rent once; a reply that was lost is settled by the label before anything else is tried."""
        environment = self.job.environment(generation)
        try:
            instance_id = self.provider.rent(offer, self.wanted, label=label, onstart=self.onstart, env=environment)
        except OfferGone as error:
            logger.info("%s; looking for another", error)
            self._exclude(generation)
            return self._resolve_lost_reply(label)
        except UnknownOutcome as error:
            logger.warning("%s: looking whether it was rented all the same", error)
            return self._resolve_lost_reply(label)
        return instance_id

    def _require_bid(self, instance_id: int) -> None:
        """A bid that became an order on demand costs three times as much; what cannot be seen is looked at later."""
        instance, _ = self._look(instance_id)
        if instance is not None and self.wanted.interruptible and self.provider.name == "vast" and not instance.is_bid:
            raise ProviderError(f"instance {instance_id} was rented on demand though a bid was asked for; given back")

    def _acquire_fence(self, generation: int) -> None:
        for pause_s in (*self.limits.backoff_s, None):
            try:
                return self.job.acquire_fence(generation)
            except TrackingUnavailable as error:
                if pause_s is None:
                    raise
                logger.warning("%s; trying again", error)
                self.pause(pause_s)
        return None

    def _known_generation(self) -> int:
        """The newest attempt that the run knows of, rented from here or from elsewhere."""
        progress = self._progress_at_last()
        return progress.generation if progress is not None else 0

    def _progress_at_last(self) -> RemoteProgress | None:
        """The run's own word, asked for until it answers, within reason."""
        for pause_s in self.limits.backoff_s:
            progress = self._progress()
            if progress is not None:
                return progress
            self.pause(pause_s)
        return None

    def _has_finished(self, generation: int) -> bool:
        progress = self._progress_at_last() if generation else None
        return progress is not None and progress.outcome == (generation, 0)

    def _resolve_lost_reply(self, label: str) -> int | None:
        """What of this label exists: one is kept, any more are given back."""
        found: list[Instance] = []
        for _ in range(LIST_TRIES):  # one empty list proves nothing: they have been wrong
            found = [instance for instance in self._list_instances(label) if instance.label == label]
            if found:
                break
            self.pause(self.limits.poll_s)
        for surplus in found[1:]:
            self.provider.destroy(surplus.id)
        if found and found[0].state in ("failed", "away"):
            self.provider.destroy(found[0].id)
            return None
        return found[0].id if found else None

    def _watch(self, instance_id: int) -> End | None:
        """Look until the training has ended (None) or the machine is of no use any more."""
        generation, seen = self._generation_with(instance_id), _Seen(time.monotonic(), time.monotonic())
        while True:
            self._require_budget()
            progress = self._progress()
            ended = self._outcome(instance_id, generation, progress, look_at_logs=seen.was_running)
            if ended is not None:
                return self._end_of(ended, progress, generation)
            if progress is not None and progress.generation < generation:
                self._acquire_fence(generation)  # a machine that was given up has written its old config again
            instance, known = self._look(instance_id)
            self._report(instance, progress, generation)
            if known and instance is None:
                return None if self._has_finished(generation) else "lost"
            end = None if instance is None else self._verdict(instance, progress, generation, seen)
            if end is not None:
                return end
            self.pause(self.limits.poll_s)

    def _verdict(self, instance: Instance, progress: RemoteProgress | None, generation: int, seen: _Seen) -> End | None:
        """Whether a machine that exists is still of use."""
        now = time.monotonic()
        seen.was_running |= instance.state == "running"
        if not seen.was_running and (instance.state == "failed" or now - seen.began > self.limits.boot_timeout_s):
            self.last_error = f"did not come up ({instance.detail})"
            logger.warning("instance %d %s", instance.id, self.last_error)
            self._exclude(generation)
            return "broken"
        position = (progress.stage if progress else "", progress.step if progress else 0, instance.state)
        if position != seen.position:
            seen.position, seen.moved_at = position, now
        if now - seen.moved_at > self.limits.stalled_after_s:
            self.last_error = f"did nothing for {now - seen.moved_at:.0f} s"
            logger.warning("instance %d %s", instance.id, self.last_error)
            return "broken"
        well = instance.state in ("running", "booting")
        seen.away_since = None if well else (seen.away_since or now)
        if seen.away_since is not None and now - seen.away_since >= self.limits.lost_after_s:
            logger.warning("instance %d was taken away", instance.id)
            return "lost"
        return None

    def _outcome(
        self, instance_id: int, generation: int, progress: RemoteProgress | None, *, look_at_logs: bool
    ) -> int | None:
        """The exit code of this attempt, from the run, or else from the machine's own log."""
        if progress is not None and progress.outcome is not None and progress.outcome[0] == generation:
            return progress.outcome[1]
        if look_at_logs:
            lines = self.provider.logs(instance_id).splitlines()
            self.log = lines[-LOG_LINES:]
            for line in reversed(lines):
                if MARK in line and line.rstrip().endswith(f"generation {generation}"):
                    return int(line.partition(MARK)[2].split()[0])
        return None

    def _exclude(self, generation: int) -> None:
        """Never that machine again, as long as there are others, even after the controller was started again."""
        self.journal.note("excluded", generation)

    def _end_of(self, code: int, progress: RemoteProgress | None, generation: int) -> End | None:
        if code == 0:
            return None
        if code == PREEMPTED:
            return "preempted"
        if code in FAULTS_OF_THE_MACHINE:
            self.last_error = FAULTS_OF_THE_MACHINE[code]
            logger.warning("machine %d %s (exit code %d)", generation, self.last_error, code)
            self._exclude(generation)
            return "broken"
        position = (progress.stage, progress.step) if progress is not None else ("", 0)
        again = position == self.failed_at
        self.failed_at, self.last_error = position, f"ended with exit code {code}"
        if code == BAD_INPUT or again:
            where = f"{position[0]} step {position[1]}" if position[0] else "the start"
            what = "bad input" if code == BAD_INPUT else f"the same error twice at {where}"
            self.fatal_reason = f"exit code {code}, {what}"
        return "failed"

    def _count(self, end: End) -> None:
        """Interruptions are weather; errors are ours, and few are allowed."""
        self.show("ENDED", {"end": end})
        progress = self._progress()
        if progress is not None and (progress.stage, progress.step) != self.ended_at:
            self.errors = 0  # it has come further since the last one ended
            self.ended_at = (progress.stage, progress.step)
        if end in ("failed", "broken"):
            self.errors += 1
            if self.fatal_reason or self.errors >= self.limits.max_errors:
                why = self.fatal_reason or f"{self.errors} errors without progress, the last machine {self.last_error}"
                raise TrainingFailed(f"the training failed: {why}{self.last_log_line or '; see the W&B run'}")
            self._wait(self.errors - 1)

    def _keep_log(self, instance_id: int) -> None:
        """What a machine wrote before it failed goes beside the journal: it says why, and is gone with the machine."""
        text, generation = self.provider.logs(instance_id), self._generation_with(instance_id)
        lines = [line for line in text.splitlines() if line.strip() and ONSTART not in line]
        if not lines:
            return
        path = self.journal.path.with_name(f"machine-{generation}.log")
        write_text(path, text)
        last = "".join(letter if letter.isprintable() else " " for letter in lines[-1].strip())[:MAX_LOG_LINE]
        self.last_log_line = f"; its last line: {last}; the lines before it: {path}"
        logger.warning("machine %d failed%s", generation, self.last_log_line)

    def _kept(self, instance_id: int) -> str:
        machine = self.journal.machines[self._generation_with(instance_id)]
        return (
            f"instance {instance_id} is kept as asked and costs {machine.usd_per_hour:.3f} USD/h "
            f"until `ups destroy {instance_id}`"
        )

    def _look(self, instance_id: int) -> tuple[Instance | None, bool]:
        try:
            return self.provider.describe(instance_id), True
        except UnknownOutcome as error:
            logger.warning("%s: nothing is concluded from that", error)
            return None, False

    def _progress(self) -> RemoteProgress | None:
        try:
            return self.job.progress()
        except TrackingUnavailable as error:
            logger.warning("%s", error)
            return None

    def _list_instances(self, prefix: str) -> list[Instance]:
        """The list of our machines; asked again while it is unknown, for an empty answer is no proof of nothing."""
        for pause_s in (*self.limits.backoff_s, None):
            try:
                return self.provider.list_instances(prefix)
            except UnknownOutcome:
                if pause_s is None:
                    raise
                self.pause(pause_s)
        raise AssertionError

    def _destroy_current(self, instance_id: int) -> None:
        self.show("GIVING BACK", {"id": instance_id})
        self._destroy(instance_id, self._generation_with(instance_id))

    def _destroy(self, instance_id: int, generation: int) -> None:
        self.provider.destroy(instance_id)
        self.journal.note("given back", generation, id=instance_id)

    def _destroy_all(self) -> None:
        """Nothing of this run may live on: what the journal names, and what the label finds. Raises ProviderError.

        One that stays does not keep the others from being given back.
        """
        errors: list[str] = []
        for machine in list(self.journal.machines.values()):
            if machine.id is not None and machine.destroyed_at is None:
                self._try_to_destroy(machine.id, machine.generation, errors)
        try:
            found = self._found()
        except (UnknownOutcome, ProviderRefused) as error:
            if not errors:
                raise
            errors.append(str(error))  # what stays is named all the same
            found = []
        for instance in found:
            self._try_to_destroy(instance.id, self._generation_of(instance), errors)
        if errors:
            raise ProviderError("; ".join(dict.fromkeys(errors)))

    def _found(self) -> list[Instance]:
        """What the label finds. An order may have been cut off, and one empty list proves nothing: then more looks."""
        unknown = any(one.id is None and one.destroyed_at is None for one in self.journal.machines.values())
        for _ in range(LIST_TRIES - 1 if unknown else 0):
            if found := self._list_instances(label_prefix(self.job.run_id)):
                return found
            self.pause(self.limits.poll_s)
        return self._list_instances(label_prefix(self.job.run_id))

    def _try_to_destroy(self, instance_id: int, generation: int, errors: list[str]) -> None:
        try:
            self._destroy(instance_id, generation)
        except ProviderError as error:
            errors.append(str(error))

    def _generation_with(self, instance_id: int) -> int:
        return next((m.generation for m in self.journal.machines.values() if m.id == instance_id), 0)

    def _generation_of(self, instance: Instance) -> int:
        text = instance.label.removeprefix(label_prefix(self.job.run_id))
        return int(text) if text.isdecimal() else 0

    def _require_budget(self, *, renting: bool = False) -> None:
        most = self.limits.max_machines
        spent, hours = self.journal.spent_usd(), (time.time() - self.journal.started_at) / 3600
        for is_over, what in (
            (spent >= self.limits.max_usd, f"--max-total-cost of {self.limits.max_usd:g} USD ({spent:.2f} spent)"),
            (hours >= self.limits.max_hours, f"--max-hours of {self.limits.max_hours:g}"),
            (renting and self.journal.rented() >= most, f"the limit of {most} machines"),
        ):
            if is_over:
                raise BudgetSpent(
                    f"{what}: reached; all machines are given back, and W&B holds the last upload. "
                    f"Launch again with --resume-from-wandb {self.job.identity()['run']} and a higher limit"
                )

    def _wait(self, attempt: int) -> None:
        self.pause(self.limits.backoff_s[min(attempt, len(self.limits.backoff_s) - 1)])

    def _report(self, instance: Instance | None, progress: RemoteProgress | None, generation: int) -> None:
        facts = {
            "instance": instance.id if instance else None,
            "instance_state": instance.state if instance else "unknown",
            "generation": generation,
            "stage": progress.stage if progress else "",
            "step": progress.step if progress else 0,
            "usd_per_hour": self.journal.machines[generation].usd_per_hour if generation else 0.0,
            "spent_usd": self.journal.spent_usd(),
            "log": self.log,
        }
        self.show("RUNNING" if instance and instance.state == "running" else "BOOTING", facts)


def require_writable_journal(path: Path) -> None:
    """Raise BadInput where no journal can be kept: without one nothing is rented."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not os.access(folder, os.W_OK):
        raise BadInput(
            f"{folder}: cannot be written, and nothing is rented without a journal; choose another --run-dir"
        )


@contextmanager
def exclusive_controller(journal_path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the journal alone: two controllers would watch, and destroy, each other's machines.

    Raises BadInput where another one holds it, or waits for its end.
    """
    journal_path.parent.mkdir(parents=True, exist_ok=True)
    lock = journal_path.with_suffix(".lock")
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise BadInput(
                    f"{journal_path}: another launch is at work in this folder; choose another --run-dir"
                ) from None
            logger.warning("%s: another launch is at work in this folder: waiting for its end", journal_path)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
