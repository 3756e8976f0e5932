"""The first fault of a pydantic error, in parts that its reader puts into a sentence."""

from typing import Any, NamedTuple

from pydantic import ValidationError

from ups_models.wording import first_line, shortened

NOT_AS_WRITTEN = "is not written as it has to be"


class Fault(NamedTuple):
    """What is wrong, where, and what was given there; `others` counts the faults beside it."""

    location: tuple[str, ...]
    message: str
    given: Any
    is_unknown_key: bool
    others: int


def reason_of(error: ValueError) -> str:
    """What a model or a parser finds wrong, first of all."""
    return fault_of(error).message if isinstance(error, ValidationError) else first_line(error)


def fault_of(error: ValidationError) -> Fault:
    """The first fault; its location is empty where the whole is wrong and no field of it alone."""
    first, *others = error.errors(include_url=False)
    return Fault(
        location=tuple(map(str, first["loc"])),
        message=_message_of(first["type"], first["msg"]),
        given=first["input"],
        is_unknown_key=first["type"] == "extra_forbidden",
        others=len(others),
    )


def _message_of(kind: str, message: str) -> str:
    """In words for a person: a pattern that a text should match is none."""
    if kind == "string_pattern_mismatch":
        return NOT_AS_WRITTEN
    return shortened(message.removeprefix("Value error, "), 400)
