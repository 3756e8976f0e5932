"""What every section of the config is made of."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict


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


Count = Annotated[int, BeforeValidator(no_bool)]
Number = Annotated[float, BeforeValidator(no_bool)]
