"""What the emulated Vast.ai does without any HTTP: contracts, auctions, the ledger, and the passing of time."""

import logging
import random
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

from harness.emulators.ledger import Ledger
from harness.emulators.vast.faults import Faults
from harness.emulators.vast.instances import Instance
from harness.emulators.vast.market import DEFAULT_MARKET, Offer

logger = logging.getLogger(__name__)

CONTAINER_ERROR = "Error response from daemon: failed to create task for container: OCI runtime create failed"


class ApiError(Exception):
    """A refusal, as the service words it: {"success": false, "error": code, "msg": text, ...}."""

    def __init__(self, status: int, error: str, msg: str, **more: Any) -> None:
        super().__init__(f"{status} {error}: {msg}")
        self.status = status
        self.body: dict[str, Any] = {"success": False, "error": error, "msg": msg, **more}


@dataclass(frozen=True)
class Result:
    """A text that a result_url will serve."""

    text: str
    ready_at: float  # time.monotonic()


class VastCloud:
    """The service itself. Its public methods may be called from any thread."""

    def __init__(
        self,
        root: Path,
        *,
        api_key: str = "account-key-of-the-emulator",
        seed: int = 0,
        clock: Callable[[], float] | None = None,
        instance_path: str = "/usr/local/bin:/usr/bin:/bin",
        instance_env: Mapping[str, str] | None = None,
        credit: float = 100.0,
    ) -> None:
        self.root = Path(root).resolve()
        self.api_key = api_key
        self.faults = Faults()
        self.offers: dict[int, Offer] = {}
        self.instances: list[Instance] = []
        self.ledger = Ledger()
        self.account_env: dict[str, str] = {}
        self.ssh_keys: dict[int, str] = {}
        self.results: dict[str, Result] = {}
        self.url = ""
        self.lock = threading.RLock()
        self.clock = clock or time.time
        # Told of every request with the account's key: its endpoint, and how many of that there were.
        self.before_request: Callable[[str, int], bool] = lambda endpoint, count: False  # True: it never arrives
        self.after_request: Callable[[str, int], None] = lambda endpoint, count: None  # has acted, not yet answered
        self._instance_path = instance_path
        self._instance_env = dict(instance_env or {})
        self._random = random.Random(seed)
        self._next_id = self._random.randrange(10_000_000, 20_000_000)
        self._mark = uuid.uuid4().hex  # unlike the seeded ids, never shared by two emulators
        self._credit = credit
        self._spent_at_credit = 0.0
        self._closed = threading.Event()

    # ------------------------------------------------------------------ market

    def new_id(self) -> int:
        """The next number; ids of offers, instances and keys never collide."""
        with self.lock:
            self._next_id += self._random.randrange(1, 50)
            return self._next_id

    def add_offer(self, **values: Any) -> Offer:
        """Put an offer on the market; what is not given is that of a usual RTX 4090."""
        with self.lock:
            offer_id = values.pop("id", None)
            machine_id = values.pop("machine_id", None)
            offer = Offer(
                id=self.new_id() if offer_id is None else offer_id,
                machine_id=self.new_id() if machine_id is None else machine_id,
                **values,
            )
            self.offers[offer.id] = offer
            return offer

    def default_market(self) -> list[Offer]:
        """A dozen offers: a few good ones, and for every usual filter one that it should drop."""
        return [self.add_offer(**values) for values in DEFAULT_MARKET]

    def remove_offer(self, offer: Offer | int) -> None:
        """Take an offer off the market; its instances keep running."""
        with self.lock:
            self.offers.pop(offer.id if isinstance(offer, Offer) else offer, None)

    def tenants(self, offer: Offer, *, on_demand_only: bool = False) -> list[Instance]:
        """Instances that hold the GPUs of an offer."""
        holding = [one for one in self.live() if one.offer is offer and not one.halted]
        return [one for one in holding if not (on_demand_only and one.is_bid)]

    def raise_min_bid(self, machine: Offer | int, price: float) -> None:
        """Set the price of a machine's or an offer's auction: bids below it lose, the others are back by themselves."""
        with self.changing():
            wanted = machine.id if isinstance(machine, Offer) else machine
            known = {one.id: one for one in [*self.offers.values(), *(it.offer for it in self.instances)]}
            found = [one for one in known.values() if wanted in {one.id, one.machine_id}]
            if not found:
                raise ValueError(f"{wanted} is neither an offer nor a machine of this market")
            for offer in found:
                offer.min_bid = price
                self.auction(offer)

    def auction(self, offer: Offer) -> None:
        """Stop the bids that lose, and note when those that win again come back."""
        for one in [it for it in self.live() if it.offer is offer and it.is_bid]:
            loses = one.price < offer.min_bid or one.displaced_by is not None
            if loses and one.state in {"loading", "running", "rebooting"} and not one.halted:
                self.halt(one, state=self.faults.outbid_status)
                one.outbid = True
                one.intended = "stopped" if self.faults.outbid_flips_intended else "running"
            elif loses:
                one.resume_at = None
            elif one.outbid and one.resume_at is None and self.faults.auto_resume_delay_s is not None:
                one.resume_at = self.clock() + self.faults.auto_resume_delay_s

    # ------------------------------------------------------------------ what the outside does

    def preempt(self, instance_id: int, *, returns_after_s: float | None = None) -> None:
        """Another bid is higher: every process is killed without notice, the disk stays and costs."""
        with self.changing():
            one = self.bid(instance_id)
            one.offer.min_bid = max(one.offer.min_bid, round(one.price * 1.05 + 0.005, 3))
            self.auction(one.offer)
            if returns_after_s is not None:
                one.resume_at = self.clock() + returns_after_s

    def resume(self, instance_id: int) -> None:
        """Priority returns: onstart runs again, in the same folder."""
        with self.changing():
            one = self.bid(instance_id)
            one.displaced_by = None
            one.offer.min_bid = min(one.offer.min_bid, one.price)
            if one.outbid:
                one.resume_at = self.clock()
            self.auction(one.offer)

    def displace(self, instance_id: int) -> None:
        """Somebody rents the machine on demand: a bid loses, whatever its price, until `resume`."""
        with self.changing():
            one = self.bid(instance_id)
            one.displaced_by = 0
            self.auction(one.offer)

    def host_offline(self, instance_id: int, kill: bool) -> None:
        """The host is not heard of any more; with kill=False the job lives on, a writer nobody can stop."""
        with self.changing():
            one = self.instance(instance_id)
            one.offline = True
            if kill:
                one.kill()
                one.crashed = True
            if kill or not self.faults.offline_is_billed:
                self.ledger.close(one, "gpu", self.clock())

    def back_online(self, instance_id: int) -> None:
        """The host is back: it learns what it missed, and starts the job if that died."""
        with self.changing():
            one = self.instance(instance_id)
            one.offline = False
            if not one.live or one.halted:
                one.kill()
            elif one.crashed and one.state == "running":
                self.restart(one)
            elif one.state == "running":
                self.ledger.open(one, "gpu", one.price, self.clock())

    def lose_processes(self, instance_id: int) -> None:
        """Every process of the container dies, and it is shown as running all the same."""
        with self.changing():
            self.instance(instance_id).kill()

    def stall(self, instance_id: int, name: str = "python", *, number: signal.Signals = signal.SIGSTOP) -> None:
        """The container's processes whose command has this in its first word stand still, or go on; others live on."""
        with self.changing():
            self.instance(instance_id).send(name, number)

    def set_credit(self, usd: float) -> None:
        """The account's credit from now on."""
        with self.changing():
            self._credit, self._spent_at_credit = usd, self.cost()

    def credit(self) -> float:
        """What is left of it, USD."""
        return self._credit - (self.cost() - self._spent_at_credit)

    # ------------------------------------------------------------------ contracts

    def live(self) -> list[Instance]:
        """Instances that are not destroyed; stopped ones cost as well."""
        with self.lock:
            return [one for one in self.instances if one.live]

    def instance(self, instance_id: int) -> Instance:
        """The instance, destroyed or not."""
        for one in self.instances:
            if one.id == instance_id:
                return one
        raise ValueError(f"there never was an instance {instance_id}")

    def bid(self, instance_id: int) -> Instance:
        """The instance, which must be an interruptible one that lives."""
        one = self.instance(instance_id)
        if not one.live or not one.is_bid:
            raise ValueError(f"instance {instance_id} is {'on demand' if one.live else 'destroyed'}: no bid can lose")
        return one

    def create(self, offer: Offer, *, price: float | None, **contract: Any) -> Instance:
        """Rent: a bid with a price, on demand without."""
        now, number = self.clock(), self.new_id()
        one = Instance(
            id=number,
            offer=offer,
            is_bid=price is not None,
            price=offer.dph_total if price is None else price,
            created_at=now,
            boots_at=now + self.faults.boot_delay_s,
            folder=self.root / f"C.{number}",
            mark=f"{self._mark}.{number}",
            api_key=f"{self._random.getrandbits(256):064x}",
            stuck=self.faults.take("stuck_loading"),
            image_fails=self.faults.take("image_fails"),
            **contract,
        )
        one.make_folder()
        self.instances.append(one)
        self.ledger.open(one, "disk", one.disk_per_hour, now)
        if not one.is_bid:
            for loser in [it for it in self.tenants(offer) if it.is_bid]:
                loser.displaced_by = one.id
            self.auction(offer)
        return one

    def destroy(self, one: Instance, *, kill: bool = True) -> None:
        """End the contract; a job on a host that is offline lives on until the host is back."""
        if not one.live:
            return
        if kill and not one.offline:
            one.kill()
        now = self.clock()
        one.ended_at = now
        one.state = "destroyed"
        self.ledger.close(one, "gpu", now)
        self.ledger.close(one, "disk", now)
        for displaced in [it for it in self.live() if it.displaced_by == one.id]:
            displaced.displaced_by = None
        self.auction(one.offer)

    def halt(self, one: Instance, *, state: str = "stopped") -> None:
        """Stop the container: no process, no GPU charge, the disk stays."""
        if not one.offline:
            one.kill()
        one.halted = True
        one.state = state
        one.intended = "stopped"
        one.resume_at = None
        self.ledger.close(one, "gpu", self.clock())

    def stop_instance(self, one: Instance) -> None:
        """The user stops it: no priority brings it back."""
        if one.live:
            self.halt(one)
            one.outbid = False

    def restart(self, one: Instance, *, state: str = "loading") -> None:
        """Start the container anew in the same folder."""
        one.kill()
        self.ledger.close(one, "gpu", self.clock())
        one.halted = one.outbid = one.crashed = False
        one.state, one.intended, one.resume_at = state, "running", None
        one.boots_at = self.clock() + self.faults.boot_delay_s

    def start_instance(self, one: Instance) -> None:
        """The user starts it; one that is outbid keeps waiting."""
        if one.is_bid and (one.price < one.offer.min_bid or one.displaced_by is not None):
            one.outbid, one.intended = True, "running"
        elif one.halted:
            self.restart(one)

    def change_bid(self, one: Instance, price: float) -> None:
        """A new bid; it counts at once."""
        one.price = price
        if self.ledger.of(one.id, "gpu") and one.state == "running":
            self.ledger.close(one, "gpu", self.clock())
            self.ledger.open(one, "gpu", price, self.clock())
        self.auction(one.offer)

    # ------------------------------------------------------------------ time

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the lock, then let what is due happen."""
        with self.lock:
            yield
            self.tick()

    def tick(self) -> None:
        """Everything that is due by the clock: boots, returns, ends of contracts and of the credit."""
        with self.lock:
            now = self.clock()
            for one in self.live():
                if one.resume_at is not None and one.resume_at <= now:
                    one.offer.min_bid = min(one.offer.min_bid, one.price)
                    self.restart(one)
                if one.state in {"loading", "rebooting"} and not one.stuck and one.boots_at <= now:
                    self.boot(one)
                if not one.halted and now >= one.created_at + one.offer.duration:
                    self.stop_instance(one)
            if self.credit() <= 0:
                self.out_of_credit()

    def out_of_credit(self) -> None:
        """Stop everything, or destroy it where no card is saved."""
        for one in self.live():
            if self.faults.no_credit_destroys:
                self.destroy(one)
            elif not one.halted or one.outbid:
                self.stop_instance(one)

    def boot(self, one: Instance) -> None:
        """The image is there: run the container."""
        if self._closed.is_set() or one.offline:
            return
        if one.image_fails:
            one.state, one.status_msg = "exited", CONTAINER_ERROR
            return
        environment = one.environment(self.url, self._instance_env, self.account_env, self._instance_path)
        process = one.start(environment)
        one.state, one.status_msg = "running", f"success, running {one.image}"
        self.ledger.open(one, "gpu", one.price, self.clock())
        threading.Thread(target=self._watch, args=(one, process), daemon=True).start()

    def _watch(self, one: Instance, process: "Popen[bytes]") -> None:
        """Wait for onstart to end; its end is that of the container only for args."""
        code = process.wait()
        with self.lock:
            if one.process is not process:
                return
            one.exit_code = code
            if one.runtype == "args" and one.state == "running" and one.live and not one.offline:
                one.kill()
                one.state, one.status_msg = "exited", f"exited with code {code}"
                self.ledger.close(one, "gpu", self.clock())

    # ------------------------------------------------------------------ the bill

    def cost(self, instance_id: int | None = None) -> float:
        """USD so far, of one instance or of all."""
        with self.lock:
            now = self.clock()
            return sum(entry.usd(now) for entry in self.ledger.of(instance_id))

    def hours(self, instance_id: int | None = None) -> float:
        """GPU hours so far, of one instance or of all."""
        with self.lock:
            now = self.clock()
            return sum(entry.hours(now) for entry in self.ledger.of(instance_id, "gpu"))
