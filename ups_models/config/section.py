"""What every section of the config is made of."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema


class Section(BaseModel):
    """A part of the config: frozen, and every unknown key is an error.

    A key that was renamed is the field's alias; its former name, the field's own, is read too, and is what is hashed.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, populate_by_name=True
    )


def no_bool(value: object) -> object:
    """Refuse yes and no where a number belongs: to Python they are numbers."""
    if isinstance(value, bool):
        raise ValueError("should be a number, not yes/no")
    return value


@dataclass(frozen=True)
class Sizes:
    """Numbers along axes: one for all, or a list of one for each, within bounds."""

    ge: int
    le: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        number = {"type": "integer", "minimum": self.ge, "maximum": self.le}
        return {"anyOf": [number, {"type": "array", "items": number}]}

    def _checked(self, value: object) -> object:
        numbers: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
        if not numbers or not all(type(one) is int for one in numbers):
            raise ValueError("should be a whole number, or a list of one for each axis")
        if not self.ge <= min(numbers) <= max(numbers) <= self.le:
            raise ValueError(f"should be from {self.ge} to {self.le}")
        return value


Count = Annotated[int, BeforeValidator(no_bool)]
Number = Annotated[float, BeforeValidator(no_bool)]


def is_power_of_two(number: int) -> bool:
    """1, 2, 4 and so on."""
    return number > 0 and number & (number - 1) == 0
