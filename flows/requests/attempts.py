"""Which run of its chain a flow run is, and how many there may be: the group beside the request in its parameters."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

MAX_ATTEMPTS = 500
"""Runs of a chain that the server itself refuses to exceed, should a run die before it can count."""
GROUP = "attempts"


class Attempts(BaseModel):
    """Filled in for a run that starts by itself after another one died; leave it as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempt: int = Field(1, ge=1, le=MAX_ATTEMPTS, description="Counts the runs of a chain.")
    max_attempts: int = Field(100, ge=1, le=MAX_ATTEMPTS, description="Give up after so many runs of a chain.")
    chain: str | None = Field(None, description="Names the chain; empty: this run begins one.")

    @property
    def most_per_day(self) -> int:
        """How many runs of the chain there may be in 24 hours."""
        return MAX_ATTEMPTS


class TrainingAttempts(Attempts):
    """Filled in for a run that starts by itself after another one died; leave it as it is."""

    max_attempts_per_day: int = Field(
        30, ge=1, le=MAX_ATTEMPTS, description="Give up after so many runs of a chain in 24 hours."
    )

    @property
    def most_per_day(self) -> int:
        """How many runs of the chain there may be in 24 hours."""
        return self.max_attempts_per_day


def as_given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What the parameters of a flow run say of attempts, unchecked: in the group or, as schedules did, beside it."""
    group = parameters.get(GROUP) or {}
    inside = group.model_dump(exclude_unset=True) if isinstance(group, BaseModel) else dict(group)
    beside = {name: parameters[name] for name in TrainingAttempts.model_fields if parameters.get(name) is not None}
    return beside | inside


def number_in(parameters: Mapping[str, Any]) -> Any:
    """The number of a flow run in its chain, as it was given."""
    return as_given(parameters).get("attempt") or 1


def without_earlier(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a flow's parameters with the group alone in the form; what stood beside it is checked as before."""
    model = next(one for name, one in schema["definitions"].items() if name.endswith(Attempts.__name__))
    shown = {name: described for name, described in schema["properties"].items() if name not in model["properties"]}
    beside = {f"^{name}$": described for name, described in model["properties"].items()}
    return {**schema, "properties": shown, "patternProperties": beside, "additionalProperties": False}
