"""Switches of the emulated RunPod: what goes wrong, and what only a real account could settle."""

from dataclasses import dataclass, field
from typing import Any

from harness.emulators.switches import Switches


@dataclass
class Faults(Switches):
    """What goes wrong. A count says how many of the next ones are hit (`EVERY`: all, 0: none); True counts as 1."""

    # -- answers
    next_rows: list[dict[str, Any]] = field(default_factory=list)  # laid over the next shown pods, one each
    missing_fields: list[str] = field(default_factory=list)  # fields that pods lack
    retry_after_s: int = 1  # in every 429
    show_500_times: int = 0
    list_empty: int = 0  # count of lists that wrongly come back empty
    list_lag_s: float = 0.0  # a pod is in the list only so long after it was made
    logs_show_onstart: bool = True  # False: the stream has lines of the host only
    logs_stay_open: bool = True  # as a stream of events does

    # -- renting
    lose_reply_to_create: int = 0  # count: made, then the connection is closed
    break_reply_to_create: str = ""  # made, then answered with this of BROKEN, once
    no_capacity: int = 0  # count: 400, though the catalog said otherwise
    no_credit: int = 0  # count, on top of a credit that is really used up

    # -- life of a pod
    boot_delay_s: float = 0.0  # on the emulator's clock
    stuck_loading: int = 0  # count of pods that never leave PROVISIONING
    image_fails: int = 0  # count of pods whose container cannot be made: ERROR
    destroy_fails_times: int = 0
    exit_restarts: bool = True  # a container that ends is started again on a fresh disk; False: EXITED
    has_runpodctl: bool = True  # in the pod, with a key that may end this pod
    pod_key_may_use_v2: bool = False
    terminated_is_shown: bool = False  # GET of a deleted pod: TERMINATED instead of 404
    no_credit_destroys: bool = True  # pods are terminated when the balance is used up; False: EXITED
