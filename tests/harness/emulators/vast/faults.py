"""Switches of the emulated Vast.ai: what goes wrong, and what only a real account could settle."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

EVERY = -1  # as a count: every one from now on
DROP = 0  # as a status: the connection is closed without an answer
BROKEN = {
    "empty": b"",
    "page": b"<html><head><title>Just a moment...</title></head></html>",
    "cut": b'{"success": true, "instances": [{"id": 1',
    "list": b"[]",
    "null": b"null",
    "text": b'"ok"',
    "strange": b'{"hello": "world"}',
}
"""As a status: an answer 200 with this body."""


@dataclass
class Faults:
    """What goes wrong. A count says how many of the next ones are hit (`EVERY`: all, 0: none); True counts as 1."""

    # -- answers
    next_status: list[int | str | Sequence[Any]] = field(default_factory=list)  # 429, ("create", 503), ("show", "cut")
    error_pages: bool = False  # what is forced comes from a proxy: HTML, not the service's JSON
    next_rows: list[dict[str, Any]] = field(default_factory=list)  # laid over the next shown instances, one each
    answer_delay_s: float = 0.0  # every answer comes so late
    rate_limit_scale: float = 0.0  # 1: the documented minimum interval of every endpoint; 0: no limit
    retry_after: bool = False  # a 429 carries Retry-After
    retry_after_s: float = 1.0
    auth_error: int = 0  # 401, 403 or 404 to every request of the account key: missing rights, 2FA
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

    def take(self, name: str) -> bool:
        """Whether the counted fault hits now; uses one up."""
        count = int(getattr(self, name))
        if count > 0:
            setattr(self, name, count - 1)
        return count != 0

    def next_answer(self, endpoint: str) -> int | str | None:
        """The status, or the name of a broken answer, forced upon this request, taken off the list; or None."""
        for index, entry in enumerate(self.next_status):
            name, status = (endpoint, entry) if isinstance(entry, int | str) else (entry[0], entry[1])
            if name == endpoint:
                del self.next_status[index]
                return status if isinstance(status, int) else str(status)
        return None

    def set(self, **changes: Any) -> None:
        """Change several switches; an unknown name is an error."""
        known = {one.name for one in fields(self)}
        if unknown := changes.keys() - known:
            raise ValueError(f"no such switch: {', '.join(sorted(unknown))}. Known: {', '.join(sorted(known))}")
        for name, value in changes.items():
            setattr(self, name, value)
