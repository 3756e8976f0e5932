"""Configs as text: what differs, and what each key means."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic.fields import FieldInfo

from flows.cli.views.tables import aligned
from ups_models.config.section import Section
from ups_models.errors import BadInput
from ups_models.wording import shortened, shown

BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "multiple_of": "multiple of"}


def difference_table(one: Section, other: Section, names: tuple[str, str]) -> str:
    """One line for each key whose values differ; a sentence where none does."""
    first, second = (dict(leaves(values_of(section))) for section in (one, other))
    keys = [key for key in dict.fromkeys([*first, *second]) if first.get(key) != second.get(key)]
    if not keys:
        return f"{names[0]} and {names[1]} are the same config"
    rows = [("key", *names), *((key, _cell(first, key), _cell(second, key)) for key in keys)]
    return "\n".join(aligned(rows))


def values_of(section: Section) -> dict[str, Any]:
    """The values of a section and of those in it, under the names that a config file has for them today."""
    dumped, found = section.model_dump(mode="json"), dict[str, Any]()
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        found[str(field.validation_alias or name)] = values_of(value) if isinstance(value, Section) else dumped[name]
    return found


def reference(schema: type[Section], beginning: str = "") -> str:
    """Every key with its default, bounds and meaning, a line each. Raises BadInput where none begins so."""
    found = [line for key, line in _described(schema, "") if key.startswith(beginning)]
    if not found:
        raise BadInput(f"no key of a config begins with {shown(beginning)}; sections: {', '.join(schema.model_fields)}")
    return "\n".join(found)


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in nested tables, by its path in them."""
    if not isinstance(value, dict) or not value:
        yield key, value
        return
    for name, inner in value.items():
        yield from leaves(inner, f"{key}.{name}" if key else str(name))


def _cell(values: dict[str, Any], key: str) -> str:
    return shortened(values[key]) if key in values else "-"


def _described(schema: type[Section], above: str) -> Iterator[tuple[str, str]]:
    for name, field in schema.model_fields.items():
        key = f"{above}{field.validation_alias or name}"
        inner = _section_of(field)
        if inner is not None:
            yield from _described(inner, f"{key}.")
            continue
        limits = _bounds(field)
        default = (
            "" if field.is_required() else f" (default: {shortened(field.get_default(call_default_factory=True))})"
        )
        yield key, f"{key}{default}{limits}: {field.description}"


def _section_of(field: FieldInfo) -> type[Section] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _bounds(field: FieldInfo) -> str:
    found = [
        f"{sign} {getattr(one, name):g}"
        for one in field.metadata
        for name, sign in BOUNDS.items()
        if hasattr(one, name)
    ]
    choices = [str(one) for one in get_args(field.annotation) if isinstance(one, str)]
    return f", {', '.join(found or [' | '.join(choices)])}" if found or choices else ""
