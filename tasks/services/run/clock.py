"""The time, as our files write it."""

from datetime import UTC, datetime


def utc_now() -> str:
    """The time as the status file writes it: ISO-8601 UTC with a Z, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


PROCESS_STARTED_AT = utc_now()
