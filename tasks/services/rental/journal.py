"""rented.jsonl: which machines a launch has rented, on disk before the money is spent."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tasks.services.rental.provider import HOURS_A_MONTH
from tasks.services.run import jsonl
from tasks.services.run.attempts import ChainRun, Duplicate
from tasks.services.run.clock import utc_now
from ups_models.errors import BadInput
from ups_models.wording import first_line

LATEST_S = 2.0**36
ANNOUNCED = ("claims", "answers")
"""Events before a launch begins, or goes on."""

Event = Literal[
    "claims", "began", "answers", "renting", "rented", "excluded", "market exhausted", "given back", "kept",
    "handed over", "closed", "decided", "bid", "pace", "traffic",
]  # fmt: skip
"""As the file spells them. claims: a controller is about to name itself in the run; answers: a chain of flow runs works
on the launch; given back: the machine is destroyed; kept: it is left running, as its owner asked; handed over: another
controller has it now; decided: what is bought, and why; bid: the price of a machine was changed; pace: what a machine
reached; traffic: the bytes that it received and sent since its script started."""

GB = 1e9
NOTED_BYTES = 10**8
"""So much more traffic of a machine is noted while it lives."""


@dataclass
class Machine:
    """A machine as the journal knows it; without an id while the answer to the order is not known."""

    generation: int
    label: str
    offer: dict[str, Any]
    usd_per_hour: float
    rented_at: float
    id: str | None = None
    destroyed_at: float | None = None
    disk_usd_per_hour: float = 0.0
    """Beside the price of the machine, by what the offer named; 0 where it named nothing."""
    kept: bool = False
    bids: list[tuple[float, float]] = field(default_factory=list)
    """When the price was changed, and to how much."""
    traffic: list[tuple[float, float]] = field(default_factory=list)
    """When it was told that data had gone over its network, and what that costs in USD by the prices of the offer."""
    counted: tuple[int, int] = (0, 0)
    """Bytes received and sent, as it told last; once it was restarted, it counts from zero."""

    def spans(self, now: float) -> list[tuple[float, float, float]]:
        """From when to when it was rented, and for how many USD an hour."""
        ended = max(self.rented_at, self.destroyed_at or now)
        starts = [(self.rented_at, self.usd_per_hour), *self.bids]
        ends = [*(at for at, _ in self.bids), ended]
        return [(at, min(end, ended), usd) for (at, usd), end in zip(starts, ends, strict=True)]

    @property
    def now_usd_per_hour(self) -> float:
        """The newest price."""
        return self.bids[-1][1] if self.bids else self.usd_per_hour

    def usd(self, now: float) -> float:
        """What it has cost until now, by our own clock, its own count of bytes and the prices that were agreed."""
        rent = sum(usd * max(0.0, ended - began) / 3600 for began, ended, usd in self.spans(now))
        return rent + sum(usd for _, usd in self.traffic)

    def count_traffic(self, at: float, counted: tuple[int, int]) -> None:
        """It has received and sent so many bytes by now."""
        goes_on = all(now >= then for now, then in zip(counted, self.counted, strict=True))
        before = self.counted if goes_on else (0, 0)
        prices = float(self.offer.get("inet_usd_per_gb") or 0.0), float(self.offer.get("inet_up_usd_per_gb") or 0.0)
        usd = sum((now - then) / GB * price for now, then, price in zip(counted, before, prices, strict=True))
        self.traffic.append((at, usd))
        self.counted = counted


@dataclass(frozen=True)
class PaceSeen:
    """What one machine reached: steps of training, the seconds they took, and those before the first of them."""

    run: str
    gpu: str
    steps: int
    seconds: float
    startup_s: float | None


@dataclass(frozen=True)
class Launch:
    """One training on rented machines, from its beginning to its end; without an end it may be resumed."""

    run: str
    provider: str
    started_at: float
    closed_at: float | None
    machines: tuple[Machine, ...]
    decision: str = ""
    """What was decided last, and why."""

    @property
    def newest(self) -> Machine | None:
        """The machine that was ordered last."""
        return self.machines[-1] if self.machines else None

    def usd(self, now: float) -> float:
        """What its machines have cost until now."""
        return sum(machine.usd(now) for machine in self.machines)


class Journal:
    """The journal of a run directory. A controller that starts again begins by reading it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.machines: dict[int, Machine] = {}
        self.generation = self.highest = 0  # of the newest order; of all that were ever noted
        self.started_at = time.time()
        self.open_job: dict[str, str] | None = None
        self.chains: set[str] = set()
        self.closed_chains: set[str] = set()
        self.excluded: set[str] = set()
        self.provider = ""
        self.controllers: set[str] = set()
        self.finished: list[Launch] = []
        self.paces: list[PaceSeen] = []
        self.decision = ""
        self.deadline: tuple[str, float] | None = None
        self.asked = ""
        self.budget: tuple[Path, str] | None = None
        self.idle_s = 0.0
        self.last_at = self.started_at
        for number, entry in enumerate(jsonl.read(path, optional=False, tolerated=0), start=1):
            try:
                self._apply(entry)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise BadInput(
                    f"{path}: entry {number} is none of a launch ({first_line(error)}); machines may still cost: look "
                    "with `ups instances`, then correct the file, or choose another --run-dir"
                ) from None

        if self.machines and self.open_job is None:
            lost = next(iter(self.machines.values())).id
            raise BadInput(
                f"{path}: instance {lost} is of no launch, so a line before it is lost; it may still cost: look with "
                "`ups instances`, then correct the file, or choose another --run-dir"
            )

    def note(self, event: Event, generation: int | None = None, **values: Any) -> None:
        """Write one event, flushed to the disk, and apply it. Without a generation: the newest one."""
        number = self.generation if generation is None else generation
        entry = {"event": event, "generation": number, "time": time.time(), "at": utc_now(), **values}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        jsonl.append(self.path, entry, flush=True)
        self._apply(entry)

    def note_traffic(self, seen: tuple[int, int] | None, at_least: int = NOTED_BYTES) -> None:
        """Write what the newest machine says it has received and sent, where that is so many bytes more than noted."""
        if seen is not None and abs(sum(seen) - sum(self.machines[self.generation].counted)) >= at_least:
            self.note("traffic", received=seen[0], sent=seen[1])

    def join(self, attempt: ChainRun) -> None:
        """Note that a chain of flow runs works on the launch: each run starts after the one before it died.

        Raises Duplicate when the launch of the chain is closed: a crash may be reported late, or twice. The first run
        of a chain is another matter: a person starts it again.
        """
        if attempt.has_predecessor and attempt.chain in self.closed_chains:
            raise Duplicate(
                f"{self.path}: the launch of chain {attempt.chain} has come to its end already; for another, start a "
                "new run"
            )
        if attempt.chain not in self.chains:
            self.note("answers", chain=attempt.chain)

    def rented(self) -> int:
        """How many machines were rented; an order without a machine does not count."""
        return sum(machine.id is not None for machine in self.machines.values())

    def not_destroyed(self) -> list[Machine]:
        """The machines that may still cost, oldest first."""
        return [machine for machine in self.machines.values() if machine.destroyed_at is None]

    def spent_usd(self) -> float:
        """What all machines of the launch have cost."""
        return sum(machine.usd(time.time()) for machine in self.machines.values())

    def hours(self) -> float:
        """Since the launch began, without the times when it was stopped and had no machine."""
        return (time.time() - self.started_at - self.idle_s) / 3600

    def launches(self) -> list[Launch]:
        """Every launch that was noted, oldest first."""
        return [*self.finished, self._launch(None)] if self.open_job is not None else list(self.finished)

    def kept_machines(self) -> list[Machine]:
        """Machines of earlier launches that were left running, as their owner asked."""
        machines = [machine for launch in self.finished for machine in launch.machines]
        return [machine for machine in machines if machine.kept and machine.destroyed_at is None]

    def _launch(self, closed_at: float | None) -> Launch:
        machines = tuple(self.machines[number] for number in sorted(self.machines))
        run = (self.open_job or {}).get("run", "")
        return Launch(run, self.provider, self.started_at, closed_at, machines, self.decision)

    def _apply(self, entry: Mapping[str, Any]) -> None:
        number = int(entry["generation"])
        self.highest = max(self.highest, number)
        self._sort(number, entry)
        if "time" in entry and entry["event"] not in ANNOUNCED:
            self.last_at = _time(entry)

    def _sort(self, number: int, entry: Mapping[str, Any]) -> None:
        match entry["event"]:
            case "began":
                self._begin(entry)
            case "claims":
                self.controllers.add(str(entry["controller"]))
            case "answers":
                self.chains.add(str(entry["chain"]))
                self.closed_chains -= self.chains
            case "closed":
                self._close(_time(entry))
            case "decided" | "pace" | "market exhausted":
                self._learn(entry)
            case "renting":
                self.machines[number], self.generation = _ordered(number, entry), number
            case event:
                self._apply_to(number, event, entry)

    def _learn(self, entry: Mapping[str, Any]) -> None:
        match entry["event"]:
            case "decided":
                self.decision = f"{entry['choice']}: {entry['why']}"
            case "pace":
                self.paces.append(_pace(entry))
            case _:
                self.excluded = set()  # every machine on offer has failed once: trying one again beats waiting

    def _begin(self, entry: Mapping[str, Any]) -> None:
        self.provider = str(entry.get("provider") or self.provider)
        if self.open_job != entry["job"]:
            self.open_job, self.started_at, self.idle_s = dict(entry["job"]), _time(entry), 0.0
        elif not self.not_destroyed():
            self.idle_s += max(0.0, _time(entry) - self.last_at)
        self.asked = str(entry.get("asked") or "")
        budget = entry.get("budget")
        self.budget = (Path(budget["file"]), str(budget["launch"])) if budget else None
        if entry.get("deadline") is not None:
            self.deadline = str(entry["deadline"]), float(entry["deadline_at"])

    def _close(self, at: float) -> None:
        if self.open_job is not None:
            self.finished.append(self._launch(at))
        self.closed_chains, self.chains = self.closed_chains | self.chains, set()
        self.deadline, self.decision, self.asked, self.budget = None, "", "", None
        self.machines, self.open_job, self.excluded = {}, None, set()  # the next launch has its own budget

    def _meant(self, number: int, instance_id: str) -> Machine | None:
        """The machine of this number: of this launch, or one that an earlier launch kept, unless the id says which."""
        numbered = [*filter(None, [self.machines.get(number)]), *self.kept_machines()]
        numbered = [machine for machine in numbered if machine.generation == number]
        named = [machine for machine in numbered if machine.id == instance_id]
        return next(iter(named or numbered), None)

    def _apply_to(self, number: int, event: Event, entry: Mapping[str, Any]) -> None:
        machine = self._meant(number, str(entry.get("id")))
        if machine is None:
            return
        match event:
            case "rented":
                machine.id = str(entry["id"])
            case "excluded":
                self.excluded.add(str(machine.offer["machine_id"]))
            case "kept":
                machine.kept = True
            case "bid":
                machine.bids.append((_time(entry), float(entry["usd_per_hour"])))
            case "traffic":
                machine.count_traffic(_time(entry), (int(entry["received"]), int(entry["sent"])))
            case "given back" | "handed over":
                machine.destroyed_at = _time(entry)


def _ordered(number: int, entry: Mapping[str, Any]) -> Machine:
    offer, price = dict(entry["offer"]), float(entry["usd_per_hour"])
    disk_usd = float(entry.get("disk_gb", 0.0)) * float(offer.get("disk_usd_per_gb_month") or 0.0) / HOURS_A_MONTH
    return Machine(number, str(entry["label"]), offer, price, _time(entry), disk_usd_per_hour=disk_usd)


def _pace(entry: Mapping[str, Any]) -> PaceSeen:
    startup_s = entry.get("startup_s")
    return PaceSeen(
        str(entry["run"]),
        str(entry["gpu"]),
        int(entry["steps"]),
        float(entry["seconds"]),
        float(startup_s) if startup_s is not None else None,
    )


def _time(entry: Mapping[str, Any]) -> float:
    """When it was written, in seconds since 1970. Raises ValueError for what is no time."""
    seconds = float(entry["time"])
    if not 0 <= seconds < LATEST_S:
        raise ValueError(f"time {seconds:g} is none")
    return seconds
