"""What a trial of `ups launch` is disturbed with, and what is demanded of it beyond its row."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from harness.chaos.remote import WANDB_KEY
from harness.chaos.trial import Scenario, Script, text_of
from harness.emulators.images import GPU_LOG

ENDS_WITHIN_S = 240
Waiting = Iterator[Callable[[], bool]]


# ---------------------------------------------------------------------- scripts


def disturbed(act: Callable[[Scenario], object], sets: int = 1) -> Script:
    """Act once, when the first machine trains and has uploaded."""

    def script(world: Scenario) -> Waiting:
        yield world.in_training(sets)
        act(world)

    return script


def outbid(world: Scenario) -> None:
    """Another bid is higher, for good."""
    world.cloud.preempt(world.machine.id)


def cheaper_again(after_s: float) -> Script:
    """Outbid; then the price drops, and the instance comes back by itself."""

    def script(world: Scenario) -> Waiting:
        yield world.in_training()
        one = world.machine
        outbid(world)
        yield world.passed(after_s)
        world.cloud.raise_min_bid(one.offer, 0.01)

    return script


def outbid_and(**faults: Any) -> Script:
    """Outbid, and from then on with these faults."""

    def act(world: Scenario) -> None:
        world.cloud.faults.set(**faults)
        outbid(world)

    return disturbed(act)


def outbid_before_it_runs(world: Scenario) -> Waiting:
    """Outbid while the image is loaded."""
    yield world.is_up
    outbid(world)


def stalled_at(text: str, *, until: Callable[[Scenario], Callable[[], bool]]) -> Script:
    """What the first machine runs stands still from this text in its log on, until a condition; its heart beats."""

    def script(world: Scenario) -> Waiting:
        yield lambda: world.is_up() and text in text_of(world.machine.log_path)
        first, is_over = world.machine, until(world)

        def hold() -> bool:
            world.cloud.stall(first.id)  # again and again: the script may start another process
            return is_over()

        yield hold
        world.cloud.stall(first.id, number=signal.SIGCONT)

    return script


def next_machine(world: Scenario) -> Callable[[], bool]:
    """A condition: the first machine was replaced."""
    return world.machines(2)


def offline(*, kill: bool) -> Script:
    """The host is cut off, and the job on it lives or dies."""
    return disturbed(lambda world: world.cloud.host_offline(world.machine.id, kill=kill))


def offline_and_back(*, kill: bool, after_s: float) -> Script:
    """The host is cut off, and comes back."""

    def script(world: Scenario) -> Waiting:
        yield world.in_training()
        one = world.machine
        world.cloud.host_offline(one.id, kill=kill)
        yield world.passed(after_s)
        world.cloud.back_online(one.id)

    return script


def zombie(world: Scenario) -> Waiting:
    """A machine that was given up writes on, until it finds that another one has taken over."""
    yield world.in_training()
    first = world.machine
    world.cloud.host_offline(first.id, kill=False)
    yield world.machines(2)
    yield lambda: "a later machine has taken over" in first.log_path.read_text("utf-8", "replace")


def switched(**faults: Any) -> Script:
    """Faults that begin when the first machine trains."""
    return disturbed(lambda world: world.cloud.faults.set(**faults))


def forced(*answers: tuple[str, int]) -> Script:
    """Answers out of turn, from the moment when the first machine trains."""
    return switched(next_status=list(answers))


def no_credit(world: Scenario) -> None:
    """All of it is used up."""
    world.cloud.set_credit(0.0)


def key_in_account(world: Scenario) -> Waiting:
    """The W&B key is an account variable."""
    world.cloud.account_env["WANDB_API_KEY"] = WANDB_KEY
    yield from ()


def key_is_strange(world: Scenario) -> Waiting:
    """The launch has a key that nobody knows."""
    world.environment[world.market.key] = "strange0key"
    yield from ()


def killed_and_blind(world: Scenario) -> Waiting:
    """Kill the launch before it hears what it has rented; the next life is shown an empty list."""

    def after(name: str, _count: int) -> None:
        if name == "create" and not world.killed:
            world.cloud.faults.list_empty = 1
            world.kill()

    world.after = after
    yield lambda: world.killed == 1


def signalled(number: signal.Signals, sets: int = 1) -> Script:
    """The launch is told to stop."""
    return disturbed(lambda world: world.send(number), sets)


def signalled_at(endpoint: str) -> Script:
    """The launch is told to stop while the answer to its request is on the way."""

    def script(world: Scenario) -> Waiting:
        sent: list[str] = []

        def send(name: str, _count: int) -> None:
            if name == endpoint and not sent:
                sent.append(name)
                world.send(signal.SIGTERM)

        world.after = send
        yield lambda: bool(sent)

    return script


def killed_at(*moments: tuple[str, int], acted: bool) -> Script:
    """Kill the launch at its nth request of a kind, before the server acts or before its answer arrives."""

    def script(world: Scenario) -> Waiting:
        left = list(moments)

        def is_one(name: str, count: int) -> bool:
            if (name, count) not in left:
                return False
            left.remove((name, count))
            world.kill()
            return True

        def after(name: str, count: int) -> None:
            is_one(name, count)

        if acted:
            world.after = after
        else:
            world.before = is_one
        yield lambda: not left

    return script


# ---------------------------------------------------------------------- demands


def no_machine_twice(world: Scenario) -> str:
    """No machine was rented again after it failed."""
    rented = [one.machine_id for one in world.cloud.instances]
    return "" if len(set(rented)) == len(rented) else "a machine was rented twice"


def no_key_in_contract(world: Scenario) -> str:
    """What is an account variable is in no create."""
    return "the key went into a create" if any("WANDB_API_KEY" in one.env for one in world.cloud.instances) else ""


def not_at_fault(world: Scenario) -> str:
    """A machine that another bid took is said to have been taken away, and to have done nothing wrong."""
    return "" if "was taken away" in world.log and "did not come up" not in world.log else "it was held at fault"


def nothing_concluded(world: Scenario) -> str:
    """Every forced answer was given, and none of them was taken for a loss or a refusal."""
    if world.cloud.faults.next_status:
        return f"never asked: {world.cloud.faults.next_status}"
    return "the key was taken for refused" if world.market.key in world.log else ""


def trained_on_gpu(world: Scenario) -> str:
    """The training computed on the machine's GPU, with the PyTorch that came with the image."""
    used = text_of(world.machine.home / GPU_LOG)
    if "flows/cli" not in used:
        return f"the training did not use the GPU; {used or 'nothing'} did"
    found = world.image.torch() if world.image is not None else []
    return "" if len(found) == 1 and found[0].startswith("2.6") else f"the image has PyTorch {found}"


def one_create(world: Scenario) -> str:
    """The order was sent once."""
    sent = sum(request.endpoint == "create" for request in world.cloud.requests)
    return "" if sent == 1 else f"{sent} creates"


def named_and_priced(world: Scenario) -> str:
    """What is left is named, with its price and how to end it."""
    number = next((one.id for one in world.cloud.live()), 0)
    wanted = (f"instance {number}", "USD/h", f"ups destroy {number}")
    return "" if all(text in world.log for text in wanted) else "what is left is not named with its price"


def named(world: Scenario) -> str:
    """What is left is named, and how to end it."""
    number = next((one.id for one in world.cloud.live()), 0)
    return "" if f"ups destroy {number}" in world.log else "what is left is not named"


def ends_itself(world: Scenario) -> str:
    """What is left is named, and gives itself back although nobody watches."""
    wrong, deadline = named(world), time.monotonic() + ENDS_WITHIN_S
    while world.cloud.live() and time.monotonic() < deadline:
        time.sleep(0.5)
    return wrong or ("the machine did not end by itself" if world.cloud.live() else "")
