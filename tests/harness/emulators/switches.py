"""Switches of an emulated service: faults that hit so many times, and answers forced upon the next requests."""

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
class Switches:
    """What every emulated service can be made to do. True counts as 1, `EVERY` as without end."""

    next_status: list[int | str | Sequence[Any]] = field(default_factory=list)  # 429, ("create", 503), ("show", "cut")
    error_pages: bool = False  # what is forced comes from a proxy: HTML, not the service's JSON
    answer_delay_s: float = 0.0  # every answer comes so late
    auth_error: int = 0  # 401, 403 or 404 to every request of the account key: missing rights, 2FA

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
