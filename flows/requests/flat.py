"""Requests as a person gives them: one flat list of names, though a request may hold another one."""

from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any

from pydantic import (
    BaseModel,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

FLAGS = "flags"
"""In `json_schema_extra` of a field: the names of the held request that may be given."""


def flag_fields(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Name and field of all that may be given for a request; those of a held one carry the defaults of the holder."""
    for name, field in model.model_fields.items():
        if not _flags(field):
            yield name, field
        for held in _flags(field):
            given = copy(type(field.default).model_fields[held])
            given.default = getattr(field.default, held)
            yield held, given


class FlatRequest(BaseModel):
    """A request that holds another one, and is read, written and described flat: `{"config": …, "gpu": …}`."""

    @model_validator(mode="before")
    @classmethod
    def _sort(cls, data: Any) -> Any:
        """Put the flat names into the request that they belong to, on top of its defaults."""
        if not isinstance(data, Mapping):
            return data
        given = dict(data)
        for name, field in cls.model_fields.items():
            held = given.get(name, {})
            if _flags(field) and isinstance(held, Mapping):
                flat = {key: given.pop(key) for key in _flags(field) if key in given}
                given[name] = {**field.default.model_dump(exclude_unset=True), **held, **flat}
        return given

    @model_serializer(mode="wrap")
    def _flatten(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written = handler(self)
        for name, field in type(self).model_fields.items():
            if _flags(field) and name in written:
                held = written.pop(name)
                written |= {key: held[key] for key in _flags(field) if key in held}
        return dict(written)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The form of Prefect's UI, and what its server lets pass."""
        schema = handler(core_schema)
        body = handler.resolve_ref_schema(schema)
        for name, field in cls.model_fields.items():
            if _flags(field) and name in body.get("properties", {}):
                described = body["properties"].pop(name)
                known = handler.resolve_ref_schema(described)["properties"]
                flat = {key: {**known[key], "default": described["default"][key]} for key in _flags(field)}
                body["properties"] = flat | body["properties"]
        return schema


def _flags(field: FieldInfo) -> list[str]:
    extra = field.json_schema_extra
    return list(extra.get(FLAGS, ())) if isinstance(extra, Mapping) else []  # type: ignore[arg-type]
