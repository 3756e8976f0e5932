"""The fields of a request as flags, and the flags as a request."""

import argparse
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from flows.requests.flat import flag_fields
from flows.requests.train import first_fault
from ups_models.errors import BadInput

APPENDED = {"set": "KEY=VALUE", "trust_code": "FILE"}
"""Fields whose flag may be given several times, and what it takes."""
Request = TypeVar("Request", bound=BaseModel)


def add_fields(parser: argparse.ArgumentParser, schema: type[BaseModel]) -> None:
    """One flag for each field of a request; what is true by default gets a --no- form.

    Flags that are not given do not show in the result: the request has defaults of its own.
    """
    for name, field in flag_fields(schema):
        extra = _extra(field)
        flags = ["--" + name.replace("_", "-"), *([str(extra["flag"])] if "flag" in extra else [])]
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": _help(field)}
        choices = _literals(field.annotation) or extra.get("enum")
        if field.annotation is bool:
            options["action"] = argparse.BooleanOptionalAction if field.default else "store_true"
        elif choices:
            options["choices"] = choices
        elif name in APPENDED:
            options |= {"action": "append", "metavar": APPENDED[name]}
        else:
            options["metavar"] = "FILE" if "config" in name else "DIR" if name.endswith("_dir") else name.upper()
        parser.add_argument(*flags, **options)


def request_of(schema: type[Request], arguments: argparse.Namespace) -> Request:
    """A request from its flags. Raises BadInput that names the flag."""
    given = {name: getattr(arguments, name) for name, _ in flag_fields(schema) if name in arguments}
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        raise BadInput(first_fault(error)) from None


def _extra(field: FieldInfo) -> dict[str, Any]:
    """What a field adds to its JSON schema."""
    extra = field.json_schema_extra
    if not callable(extra):
        return dict(extra or {})
    schema: dict[str, Any] = {}
    extra(schema)
    return schema


def _help(field: FieldInfo) -> str:
    text = (field.description or "").replace("%", "%%")
    if field.default in (None, False, ()):
        return text
    return f"{text} (default: {'yes' if field.default is True else field.default})"


def _literals(annotation: Any) -> tuple[str, ...]:
    """The values of a Literal, also where None is one more; empty for any other type."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next(filter(None, map(_literals, get_args(annotation))), ())
