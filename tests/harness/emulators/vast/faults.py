"""Switches of the emulated Vast.ai: what goes wrong, and what only a real account could settle."""

from dataclasses import dataclass, field
from typing import Any

from harness.emulators.switches import Switches


@dataclass
class Faults(Switches):
    """What goes wrong. A count says how many of the next ones are hit (`EVERY`: all, 0: none); True counts as 1."""

    # -- answers
    next_rows: list[dict[str, Any]] = field(default_factory=list)  # laid over the next shown instances, one each
    rate_limit_scale: float = 0.0  # 1: the documented minimum interval of every endpoint; 0: no limit
    retry_after: bool = False  # a 429 carries Retry-After
    retry_after_s: float = 1.0
    bad_key_status: int = 401  # to an unknown key; 404 has been seen
    show_500_times: int = 0
    list_empty: int = 0  # count of v1 lists that wrongly come back empty
    null_start_date: int = 0  # count of lists and shows whose first row has start_date null
    missing_fields: list[str] = field(default_factory=list)  # fields that instance rows lack
    logs_show_onstart: bool = True  # False: what a container in ssh mode logs is not what its onstart script writes
    result_delay_s: float = 0.2  # until a result_url has its text

    # -- renting
    lose_reply_to_create: int = 0  # count: made, then the connection is closed
    break_reply_to_create: str = ""  # made, then answered with this of BROKEN, once
    offer_gone: int = 0  # count: somebody else was faster
    low_bid: int = 0  # count: a bid counts as too low, whatever it is
    low_bid_status: int = 400  # 200: the error comes in a body with success false
    low_bid_ignores_cancel_unavail: bool = False  # a stopped instance stays behind all the same
    no_credit: int = 0  # count, on top of a credit that is really used up
    no_credit_status: int = 400
    no_credit_error_code: str = "insufficient_credit"
    second_create_makes_second_instance: bool = True

    # -- life of an instance
    boot_delay_s: float = 0.0  # on the emulator's clock
    stuck_loading: int = 0  # count of instances that never leave loading
    image_fails: int = 0  # count of instances whose container cannot be made
    destroy_fails_times: int = 0
    outbid_status: str = "stopped"  # or "exited"
    outbid_flips_intended: bool = True  # intended_status becomes "stopped" when outbid
    auto_resume_delay_s: float | None = 0.0  # after priority returned; None: never by itself
    account_env_in_extra_env: bool = False
    container_key_may_get: bool = False
    dph_total_includes_disk: bool = False
    offline_is_billed: bool = True  # GPU of a host that is offline while the job lives on
    no_credit_destroys: bool = False  # no saved card: destroyed instead of stopped
    mask_secrets: bool = False  # the server itself masks the values of account variables
