"""What can happen to `ups launch` on RunPod: what happens on every market, and what only happens there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from harness.chaos.launch_matrix_cases import ANSWERS, ENDS, KILLED, MACHINES, RENTING
from harness.chaos.launch_matrix_scripts import (
    disturbed,
    one_create,
    switched,
)
from harness.chaos.trial import LONG, Case, Scenario, Script
from harness.emulators.switches import EVERY

MARKET, KEY = "runpod", "RUNPOD_API_KEY"
ELSEWHERE = ("secrets",)
"""Questions that are not asked here."""
SHARED = {
    "undisturbed", "429-twice", "429-for-minutes", "500-show", "500-everything", "500-create", "dropped",
    "slow-answers", "list-empty", "missing-label", "lost-reply-two", "lost-reply-list-empty", "lost-reply-list-blind",
    "bad-key-401",
    "stuck", "stuck-always", "image-fails", "image-fails-always", "no-cuda", "no-cuda-auto", "image-older-torch",
    "image-newer-torch", "slow-boot", "stands-still", "stands-still-installing", "stands-still-downloading",
    "log-without-onstart", "slow-installation", "processes-gone", "offline-alive", "offline-dead", "destroyed-by-owner",
    "stopped-by-owner", "destroy-fails", "destroy-fails-always", "training-fails", "bad-input", "no-auto-shutdown",
    "keep-on-failure", "max-hours", "too-little-money", "budget-file", "sigterm", "sigint",
    "sigterm-at-search", "sigterm-at-create", "sigterm-at-show", "killed-twice-create", "killed-list-empty",
    "locked-out-401", "locked-out-403",
}  # fmt: skip
FAMILIES = (
    "429-often-", "408-", "409-", "425-", "520-", "524-", "broken-", "killed-before-", "killed-after-", "refused-401-",
    "refused-403-",
)  # fmt: skip


def on_runpod(cases: Iterable[Case]) -> list[Case]:
    """Those that mean the same there."""
    shared = [case for case in cases if case.name in SHARED or case.name.startswith(FAMILIES)]
    return [_moved(case) for case in shared if not case.name.endswith(ELSEWHERE)]


def _moved(case: Case) -> Case:
    faults = {name: value for name, value in case.faults.items() if name != "second_create_makes_second_instance"}
    if "next_status" in faults:
        faults["next_status"] = [entry for entry in faults["next_status"] if entry[0] not in ELSEWHERE]
    return replace(case, market=MARKET, faults=faults, said=case.said.replace("VAST_API_KEY", KEY))


def taken(world: Scenario) -> None:
    """The pod is gone: RunPod has ended it."""
    world.cloud.destroy(world.machine)


def taken_and(**faults: Any) -> Script:
    """Gone, and from then on with these faults."""

    def act(world: Scenario) -> None:
        world.cloud.faults.set(**faults)
        taken(world)

    return disturbed(act)


def out_of_credit(world: Scenario) -> None:
    """The balance is used up."""
    world.cloud.set_credit(0.0)


OWN = (
    Case("no-bids", "an interruptible machine is asked for, which RunPod has not", said="on demand only"),
    Case(
        "retry-after", "a 429 names how long to wait", faults={"next_status": [("show", 429)] * 2, "retry_after_s": 3}
    ),
    Case("no-capacity", "the catalog had what an order does not get: the next offer", faults={"no_capacity": 1}),
    Case("no-capacity-twice", "and once more", faults={"no_capacity": 2}),
    Case(
        "no-capacity-always",
        "every offer is refused: the order is at fault, and what RunPod says is told",
        faults={"no_capacity": EVERY},
        code=2,
        machines=(0,),
        said="refuses every offer",
    ),
    Case(
        "no-capacity-later",
        "a machine is lost, and for a while there is no other",
        taken_and(no_capacity=2),
        steps=LONG,
        machines=(2,),
    ),
    Case("no-credit", "no balance", faults={"no_credit": EVERY}, code=2, machines=(0,), said="no credit"),
    *(
        Case(
            f"credit-used-up-{'terminated' if ends else 'exited'}",
            f"the balance is used up: the pod is {'terminated' if ends else 'EXITED'}",
            disturbed(out_of_credit),
            {"no_credit_destroys": ends},
            steps=LONG,
            code=2,
            said="no credit",
        )
        for ends in (True, False)
    ),
    *(
        Case(
            f"refused-between-{endpoint}",
            f"{endpoint} is refused once, between two machines",
            taken_and(next_status=[(endpoint, 403)]),
            steps=LONG,
            machines=(2,),
            said="refused with a key that was good before",
        )
        for endpoint in ("search", "create")
    ),
    Case(
        "lost-reply-list-late",
        "the answer to an order is lost, and the list has the pod a second later",
        faults={"lose_reply_to_create": 1, "list_lag_s": 1.0},
        demand=one_create,
    ),
    Case("terminated-shown", "a pod that is deleted is shown as TERMINATED", faults={"terminated_is_shown": True}),
    Case("no-runpodctl", "the pod cannot end itself: the controller does", faults={"has_runpodctl": False}),
    Case(
        "logs-end",
        "the stream of a log ends by itself",
        faults={"logs_stay_open": False},
        steps=LONG,
    ),
    Case(
        "restarting",
        "the pod is shown as STARTING for a while, twice",
        switched(next_rows=[{"status": "STARTING"}] * 3 + [{}] * 2 + [{"status": "STARTING"}] * 3),
        steps=LONG,
    ),
    *(
        Case(f"missing-{name}", f"pods lack {name}, always", faults={"missing_fields": [name]}, within_s=900)
        for name in ("status", "cost", "gpu")
    ),
)
RUNPOD_CASES: tuple[Case, ...] = (
    *on_runpod((*ANSWERS, *RENTING, *MACHINES, *ENDS, *KILLED)),
    *(replace(case, market=MARKET) for case in OWN),
)
