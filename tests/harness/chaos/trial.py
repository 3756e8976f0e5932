"""One `ups launch` from beginning to end under one disturbance, and what it came to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.chaos import remote
from harness.chaos.markets import MARKETS, Market
from harness.emulators.images import Image, build_image
from harness.emulators.wandb.server import WandbServer, client_environment
from tasks.services.rental.providers.local import marked_processes

SHORT, LONG = 10, 200
"""Steps per epoch: a machine that is soon done, and one that is at work for some seconds."""
LOOK_S, SETTLE_S = 0.05, 1.0
END_WITHIN_S = 90
MARK = "UPS_TRIAL"
QUICK = ("--poll-s", "0.5", "--lost-after-s", "2", "--max-price", "1")
LAST_LINES = 60
BUDGET_FILE = "budget.yaml"
"""Of every trial, in its own folder."""


class Scenario:
    """The cloud, W&B and the launch of one trial, in the hands of its script."""

    def __init__(
        self,
        scratch: Path,
        market: Market,
        cloud: Any,
        wandb: WandbServer,
        environment: dict[str, str],
        words: list[str],
    ) -> None:
        self.scratch, self.market, self.cloud, self.wandb = scratch, market, cloud, wandb
        self.words = words
        self.environment = {**environment, MARK: str(scratch)}
        self.most_live = self.killed = 0
        self.again = False
        self.image: Image | None = None
        self.before: Callable[[str, int], bool] = lambda endpoint, count: False
        self.after: Callable[[str, int], None] = lambda endpoint, count: None
        self.launch: subprocess.Popen[bytes] | None = None
        cloud.before_request, cloud.after_request = self._before, self._after

    def start(self) -> None:
        """Start the command, or start it once more."""
        self.again = False
        self.launch = remote.launch(self.scratch, self.environment, self.words)

    def has_ended(self) -> bool:
        """Whether the launch has ended by itself."""
        if self.launch is None or self.launch.poll() is None:
            return False
        if self.again:
            self.start()
            return False
        return True

    def kill(self) -> None:
        """Kill -9 the launch; it is started again. Returns when it is dead."""
        if self.launch is not None:
            self.again = True
            self.killed += 1
            self.launch.kill()
            self.launch.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the launch alone."""
        if self.launch is not None:
            self.launch.send_signal(number)

    @property
    def machine(self) -> Any:
        """The newest."""
        return self.cloud.instances[-1]

    @property
    def log(self) -> str:
        """What the launch said, in all its lives."""
        path = self.scratch / "launch.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def in_training(self, sets: int = 1) -> Callable[[], bool]:
        """A condition: the newest machine runs, and has uploaded so many more sets."""
        wanted = remote.sets_in(self.wandb) + sets
        return lambda: self.is_up() and self.machine.state == "running" and (remote.sets_in(self.wandb) >= wanted)

    def is_up(self) -> bool:
        """Whether there is a machine that is not destroyed."""
        return bool(self.cloud.live())

    def asked(self, endpoint: str, times: int = 1) -> Callable[[], bool]:
        """A condition: the launch has asked this so many times more."""
        wanted = self._asked(endpoint) + times
        return lambda: self._asked(endpoint) >= wanted

    def machines(self, count: int) -> Callable[[], bool]:
        """A condition: so many machines were rented in all."""
        return lambda: len(self.cloud.instances) >= count

    def passed(self, seconds: float) -> Callable[[], bool]:
        """A condition: so much time."""
        until = time.monotonic() + seconds
        return lambda: time.monotonic() >= until

    def _asked(self, endpoint: str) -> int:
        return sum(request.endpoint == endpoint for request in self.cloud.requests)

    def _before(self, endpoint: str, count: int) -> bool:
        return self.before(endpoint, count)

    def _after(self, endpoint: str, count: int) -> None:
        self.most_live = max(self.most_live, len(self.cloud.live()))  # it grows with a create, and with nothing else
        self.after(endpoint, count)


Script = Callable[[Scenario], Iterator[Callable[[], bool]]]
"""Disturbs: begins before the launch does, yields what it waits for, and must come to its end before the launch."""


def undisturbed(_world: Scenario) -> Iterator[Callable[[], bool]]:
    """Leaves it alone."""
    yield from ()


def nothing_more(_world: Scenario) -> str:
    """No further demand."""
    return ""


@dataclass(frozen=True)
class Case:
    """A disturbance, and how the launch has to end under it."""

    name: str
    means: str
    script: Script = undisturbed
    faults: Mapping[str, Any] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    steps: int = SHORT
    code: int = 0
    machines: tuple[int, ...] = (1,)
    most_live: int = 1
    left: int = 0
    said: str = ""
    demand: Callable[[Scenario], str] = nothing_more
    within_s: float = 300
    market: str = "vast"
    image: str = ""
    """The version of the PyTorch in the image of the machines; empty: they run in this environment."""


@dataclass
class Row:
    """What a case came to."""

    case: Case
    code: int
    machines: int
    most_live: int
    left: int
    usd_after: float
    identical: bool
    said: str
    seconds: float
    wrong: list[str] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)


def run_case(case: Case, scratch: Path, reference: Mapping[str, str]) -> Row:
    """Carry one case out."""
    environment, began = remote.environment_in(scratch) | server(), time.monotonic()
    market = MARKETS[case.market]
    path, variables = f"{Path(sys.executable).parent}:{os.environ['PATH']}", {"UPS_HEARTBEAT_S": "1"} | server()
    image = build_image(scratch / "image", torch=case.image) if case.image else None
    if image is not None:
        path, variables = image.path, variables | image.environment
    with (
        WandbServer() as wandb,
        market.make(
            scratch / "cloud",
            api_key=remote.MARKET_KEYS[market.key],
            instance_path=path,
            instance_env={"OMP_NUM_THREADS": "1"} | variables,
        ) as cloud,
    ):
        cloud.default_market()
        cloud.faults.set(**case.faults)
        environment |= {**client_environment(wandb.url, scratch, remote.WANDB_KEY), **market.address(cloud.url)}
        (scratch / BUDGET_FILE).write_text("usd: 0.0014\n", "utf-8")
        own = [str(scratch / word) if word == BUDGET_FILE else word for word in case.arguments]
        words = [*arguments_of(case.steps), *QUICK, "--provider", case.market, *own]
        world = Scenario(scratch, market, cloud, wandb, environment, words)
        world.image = image
        finished = _drive(world, case)
        row = _row(world, case, reference, time.monotonic() - began)
        row.wrong = [*([] if finished else ["the disturbance did not take place"]), *_mismatches(row, world)]
        row.logs = [world.log, *(text_of(one.log_path) for one in cloud.instances)] if row.wrong else []
        _end_processes(world)
        return row


def server() -> dict[str, str]:
    """The Prefect server that all share, where there is one: it is no part of what is tried."""
    return {name: os.environ[name] for name in ("PREFECT_API_URL",) if name in os.environ}


def arguments_of(steps: int) -> list[str]:
    """What is trained: one stage, of so many steps in each epoch."""
    return [*remote.ARGUMENTS, "--stage", "operator", "--set", f"stages.operator.steps_per_epoch={steps}"]


def _drive(world: Scenario, case: Case) -> bool:
    """Go through script and launch side by side; whether the script came to its end."""
    script = case.script(world)
    waiting = next(script, None)
    world.start()
    deadline = time.monotonic() + case.within_s
    while not world.has_ended():
        if waiting is not None and waiting():
            waiting = next(script, None)
        if time.monotonic() > deadline:
            _stop(world)
            return False
        time.sleep(LOOK_S)
    return waiting is None or (waiting() and next(script, None) is None)


def _stop(world: Scenario) -> None:
    """It takes too long."""
    if world.launch is not None:
        world.launch.terminate()
        try:
            world.launch.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            world.launch.kill()
            world.launch.wait()


def _row(world: Scenario, case: Case, reference: Mapping[str, str], seconds: float) -> Row:
    cloud = world.cloud
    spent = cloud.cost()
    time.sleep(SETTLE_S)
    said = [line.removeprefix("ups: ") for line in world.log.splitlines() if line.startswith("ups: ")]
    return Row(
        case,
        world.launch.returncode if world.launch is not None else -1,
        len(cloud.instances),
        world.most_live,
        len(cloud.live()),
        cloud.cost() - spent,
        bool(reference) and remote.final_weights(world.wandb) == reference,
        said[-1] if said else "",
        seconds,
    )


def _mismatches(row: Row, world: Scenario) -> list[str]:
    case = row.case
    demanded, undescribed = case.demand(world), getattr(world.cloud, "rejected", [])
    found = {
        f"exit code {row.code} instead of {case.code}": row.code != case.code,
        f"{row.machines} machines instead of {case.machines}": row.machines not in case.machines,
        f"{row.most_live} machines at once": row.most_live > case.most_live,
        f"{row.left} left instead of {case.left}": row.left != case.left,
        f"{row.usd_after:.9f} USD spent after the end": not case.left and row.usd_after > 0,
        "other weights": case.code == 0 and not row.identical,
        "a traceback": "Traceback" in world.log,
        f"not said: {case.said}": case.said not in world.log,
        "no error sentence": bool(case.code) and not row.said,
        f"processes left: {left_over(world)}": bool(left_over(world)),
        "a key in the log": any(key in world.log for key in (*remote.MARKET_KEYS.values(), remote.WANDB_KEY)),
        f"not as described: {undescribed[:3]}": bool(undescribed),
        demanded: bool(demanded),
    }
    return [text for text, is_wrong in found.items() if is_wrong]


def left_over(world: Scenario) -> list[int]:
    """Processes that a launch has started and left."""
    return marked_processes(f"{MARK}={world.scratch}")


def _end_processes(world: Scenario) -> None:
    for pid in left_over(world):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def text_of(path: Path) -> str:
    """The end of a log that may not be there."""
    lines = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
    return "\n".join(lines[-LAST_LINES:])
