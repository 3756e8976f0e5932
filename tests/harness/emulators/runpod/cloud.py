"""What the emulated RunPod does without any HTTP: orders, the stock, the bill, and the passing of time."""

import random
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

from harness.emulators.ledger import Ledger
from harness.emulators.runpod.faults import Faults
from harness.emulators.runpod.pods import Pod
from harness.emulators.runpod.stock import DEFAULT_STOCK, GPUS, Gpu, Shelf, StockFilter

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


class ApiError(Exception):
    """A refusal, as the service words it: a problem of RFC 9457."""

    def __init__(self, status: int, title: str, detail: str, errors: list[str] | None = None) -> None:
        super().__init__(f"{status} {title}: {detail}")
        self.status = status
        self.body: dict[str, Any] = {"title": title, "status": status, "detail": detail}
        if errors:
            self.body["errors"] = errors


class RunpodCloud:
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
        self.gpus: dict[str, Gpu] = {one.id: one for one in GPUS}
        self.shelves: list[Shelf] = []
        self.instances: list[Pod] = []
        self.ledger = Ledger()
        self.url = ""
        self.lock = threading.RLock()
        self.clock = clock or time.time
        # Told of every request with the account's key: its endpoint, and how many of that there were.
        self.before_request: Callable[[str, int], bool] = lambda endpoint, count: False  # True: it never arrives
        self.after_request: Callable[[str, int], None] = lambda endpoint, count: None  # has acted, not yet answered
        self._instance_path = instance_path
        self._instance_env = dict(instance_env or {})
        self._random = random.Random(seed)
        self._mark = uuid.uuid4().hex
        self._credit = credit
        self._spent_at_credit = 0.0
        self._closed = threading.Event()

    # ------------------------------------------------------------------ stock

    def default_market(self) -> list[Shelf]:
        """The usual stock: a few shelves that fit, and for every usual filter one that it should drop."""
        self.shelves = [Shelf(**row) for row in DEFAULT_STOCK]
        return self.shelves

    def place(self, gpu: str, wanted: StockFilter) -> Shelf | None:
        """A shelf that has what is wanted, the fullest; None: there is none."""
        fitting = [one for one in wanted.of(self.shelves, gpu) if one.free >= wanted.count]
        return max(fitting, key=lambda one: one.free, default=None)

    # ------------------------------------------------------------------ what the outside does

    def stop_instance(self, one: Pod) -> None:
        """Its owner stops it: EXITED, without its disk and without a charge."""
        with self.changing():
            if one.live:
                self._halt(one, "EXITED")

    def lose_processes(self, instance_id: str) -> None:
        """Every process of the container dies, and it is shown as running all the same."""
        with self.changing():
            one = self.instance(instance_id)
            one.process = None  # so that its end is no end of the container
            one.kill()

    def stall(self, instance_id: str, name: str = "python", *, number: signal.Signals = signal.SIGSTOP) -> None:
        """The container's processes whose command has this in its first word stand still, or go on; others live on."""
        with self.changing():
            self.instance(instance_id).send(name, number)

    def host_offline(self, instance_id: str, kill: bool) -> None:
        """The host is not heard of any more; with kill=False the job lives on, a writer nobody can stop."""
        with self.changing():
            one = self.instance(instance_id)
            one.offline = not kill
            if kill:
                one.kill()
            one.status = "ERROR"

    def set_credit(self, usd: float) -> None:
        """The account's balance from now on."""
        with self.changing():
            self._credit, self._spent_at_credit = usd, self.cost()

    def credit(self) -> float:
        """What is left of it, USD."""
        return self._credit - (self.cost() - self._spent_at_credit)

    # ------------------------------------------------------------------ pods

    def live(self) -> list[Pod]:
        """Pods that are not destroyed."""
        with self.lock:
            return [one for one in self.instances if one.live]

    def instance(self, instance_id: str) -> Pod:
        """The pod, destroyed or not."""
        for one in self.instances:
            if one.id == instance_id:
                return one
        raise ValueError(f"there never was a pod {instance_id}")

    def create(self, shelf: Shelf, contract: Mapping[str, Any], count: int) -> Pod:
        """Take the GPUs off the shelf, and make the pod."""
        now, gpu = self.clock(), self.gpus[shelf.gpu]
        name = "".join(self._random.choices(ALPHABET, k=14))
        shelf.free -= count
        one = Pod(
            id=name,
            shelf=shelf,
            count=count,
            price=count * (gpu.secure if shelf.cloud == "SECURE" else gpu.community),
            created_at=now,
            boots_at=now + self.faults.boot_delay_s,
            folder=self.root / name,
            mark=f"{self._mark}.{name}",
            port=40000 + self._random.randrange(20000),
            contract=contract,
            api_key=f"pod{self._random.getrandbits(256):064x}",
            stuck=self.faults.take("stuck_loading"),
            image_fails=self.faults.take("image_fails"),
        )
        one.wipe()
        self.instances.append(one)
        self.ledger.open(one, "gpu", one.price, now)
        return one

    def destroy(self, one: Pod, *, kill: bool = True) -> None:
        """End the pod; a job on a host that is offline lives on."""
        with self.lock:
            if not one.live:
                return
            if kill and not one.offline:
                one.kill()
            if one.status != "EXITED":
                one.shelf.free += one.count
            one.ended_at, one.status = self.clock(), "TERMINATED"
            self.ledger.close(one, "gpu", one.ended_at)

    def _halt(self, one: Pod, status: str) -> None:
        if one.status == "EXITED":
            return
        one.status = status  # first: its end is then no end of its own
        one.kill()
        one.shelf.free += one.count
        self.ledger.close(one, "gpu", self.clock())

    # ------------------------------------------------------------------ time

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the lock, then let what is due happen."""
        with self.lock:
            yield
            self.tick()

    def tick(self) -> None:
        """Everything that is due by the clock: boots, and the end of the credit."""
        with self.lock:
            now = self.clock()
            for one in self.live():
                if one.stuck or one.status not in ("PROVISIONING", "STARTING"):
                    continue
                if one.boots_at <= now:
                    self._boot(one)
                elif one.boots_at - self.faults.boot_delay_s / 2 <= now:
                    one.status = "STARTING"
            if self.credit() <= 0:
                for one in self.live():
                    if self.faults.no_credit_destroys:
                        self.destroy(one)
                    else:
                        self._halt(one, "EXITED")

    def _boot(self, one: Pod) -> None:
        """The image is there: run the container."""
        if self._closed.is_set():
            return
        if one.image_fails:
            one.status = "ERROR"
            return
        ctl = self.faults.has_runpodctl
        environment = one.environment(self.url, self._instance_env, self._instance_path, ctl=ctl)
        process = one.start(environment)
        one.status, one.started_at = "RUNNING", self.clock()
        threading.Thread(target=self._watch, args=(one, process), daemon=True).start()

    def _watch(self, one: Pod, process: "Popen[bytes]") -> None:
        """Wait for the container to end: it is started again, or is EXITED."""
        code = process.wait()
        with self.lock:
            if one.process is not process or not one.live or one.status != "RUNNING" or self._closed.is_set():
                return
            one.exit_code = code
            one.kill()
            if self.faults.exit_restarts:
                one.wipe()
                one.status, one.boots_at = "STARTING", self.clock() + 1.0
            else:
                self._halt(one, "EXITED")

    # ------------------------------------------------------------------ the bill

    def cost(self, instance_id: str | None = None) -> float:
        """USD so far, of one pod or of all."""
        with self.lock:
            now = self.clock()
            return sum(entry.usd(now) for entry in self.ledger.of(instance_id))
