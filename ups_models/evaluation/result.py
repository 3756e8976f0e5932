"""What an evaluation found, typed, and the JSON file in which a run keeps it."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError, computed_field

from ups_models.config.faults import fault_of
from ups_models.errors import BadInput
from ups_models.reading import Unreadable, parse_json, read_text
from ups_models.wording import first_line, shortened, shown

SCHEMA_VERSION = 2
READABLE = (1, SCHEMA_VERSION)

Number = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: value if math.isfinite(value) else None, when_used="json"),
]
"""A float. JSON knows neither NaN nor infinity: both are written as null, and null is read as NaN."""
Interval = tuple[Number, Number]
Scores = dict[str, Number]
"""Numbers by the key of their metric (ups_models/evaluation/registry.py)."""
COVERAGE = "coverage/"


class Record(BaseModel):
    """Base of every part: immutable."""

    model_config = ConfigDict(frozen=True)


class DataFacts(Record):
    """What was evaluated on."""

    family: str
    nx: int
    nt: int
    dt: float
    parameter: tuple[float, ...]
    files: tuple[str, ...] = ()
    parameters: dict[str, tuple[float, ...]] | None = None
    """Of each, by name, where there are several; `parameter` is the first of them."""
    grid: tuple[int, ...] | None = None
    """Points along each axis, where there are several; `nx` are those of the last."""
    channels: tuple[str, ...] | None = None
    """Where there are several."""


class NetworkFacts(Record):
    """How large the operator is, what its latent state costs and loses, and how fast it is where it was evaluated."""

    parameters: int
    latent: int
    """Numbers of the latent state of one field."""
    compression: Number
    """Numbers of a field for each of these."""
    reconstruction: Number
    """Mean nRMSE of D(E(u)), over the fields that were evaluated."""
    seconds: Number
    """Of one step of one field, in batches."""


class Summary(Record, extra="allow"):
    """Statistics over trajectories, with the 95 % interval of the mean."""

    mean: Number
    median: Number
    ci95: Interval
    __pydantic_extra__: Scores

    @property
    def scores(self) -> Scores:
        """The single numbers."""
        return {"mean": self.mean, "median": self.median, **self.__pydantic_extra__}


class Curve(Record):
    """The same statistics at each time of the rollout."""

    mean: tuple[Number, ...]
    median: tuple[Number, ...] = ()
    ci95: tuple[Interval, ...] = ()


class Rollout(Record):
    """Many steps from one field: errors by model, and of the operator by horizon, parameter and threshold."""

    by_parameter: dict[str, Summary] = {}
    times: tuple[float, ...] = ()
    summary: dict[str, Summary] = {}
    by_horizon: dict[str, Curve] = {}
    horizons: dict[str, Summary] = {}
    pdebench: dict[str, Scores] = {}
    vrmse: Scores = {}
    correlation_time: Scores = {}


class EnsembleScores(Record, extra="allow"):
    """How good the samples of one sampler are; beside the fields below, a number for each metric of ensembles."""

    nfe: int = 0
    coverage: Scores = {}
    rank_histogram: tuple[Number, ...] = ()
    horizons: dict[str, "EnsembleScores"] = {}
    """Of a rollout the same after so many steps; absent in files of earlier versions."""
    __pydantic_extra__: Scores

    @classmethod
    def of(
        cls, scores: Mapping[str, float], rank_histogram: Sequence[float], horizons: Mapping[str, Self] | None = None
    ) -> Self:
        """From the numbers by metric."""
        covered = {key.removeprefix(COVERAGE): value for key, value in scores.items() if key.startswith(COVERAGE)}
        rest = {key: value for key, value in scores.items() if not key.startswith(COVERAGE)}
        found = {"coverage": covered, "rank_histogram": tuple(rank_histogram), "horizons": dict(horizons or {})}
        return cls.model_validate({**rest, **found})

    @property
    def scores(self) -> Scores:
        """The numbers by metric, those of `coverage` as coverage/LEVEL."""
        covered = {f"{COVERAGE}{level}": value for level, value in self.coverage.items()}
        return {"nfe": self.nfe, **covered, **self.__pydantic_extra__}


class Ensembles(Record, extra="allow"):
    """Ensembles of each sampler on the same fields, beside the operator alone, which makes one forecast."""

    operator: Scores = {}
    trajectories: int | None = None
    __pydantic_extra__: dict[str, EnsembleScores]

    @property
    def samplers(self) -> Mapping[str, EnsembleScores]:
        """By sampler."""
        return self.__pydantic_extra__


class Darcy(Record, extra="allow"):
    """Steady states of Darcy flow: samples of the prior, beside guesses that need no network."""

    samples: int
    steady_prior: EnsembleScores | None = None
    __pydantic_extra__: dict[str, Scores]

    @property
    def guesses(self) -> Mapping[str, Scores]:
        """By guess."""
        return self.__pydantic_extra__


class Check(Record):
    """A bound that a finished quickstart is expected to keep; printed, never a reason to hide a number."""

    name: str
    value: Number
    bound: float
    stretch_goal: float | None = None
    sense: Literal["<=", ">="] = "<="
    lower: float | None = None
    """Of a value that has two bounds, the lower one; absent in files of earlier versions."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def reached(self) -> bool:
        """Whether the value keeps the bound, or both."""
        return self.meets(self.bound) and (self.lower is None or self.value >= self.lower)

    def meets(self, limit: float) -> bool:
        """Whether the value keeps this limit; NaN keeps none."""
        return self.value <= limit if self.sense == "<=" else self.value >= limit


class PeerResult(Record):
    """A network of others beside the operator: its rollout error, and what it was given."""

    mean: Number
    median: Number
    p90: Number
    ci95: Interval
    one_step: Number
    parameters: int
    steps: int
    seconds_per_step: Number
    """Of CPU, or of a GPU, as the operator's below: steps are as many as took the operator's training as long."""
    operator_seconds_per_step: Number
    operator_steps: int | None = None
    """Absent in files of earlier versions."""
    gflops: Number
    operator_gflops: Number
    """Of a forecast of one field by one step, the FFT by its formula."""


class Solved(Record):
    """The solver on one grid: points along the first axis, seconds of a trajectory, mean nRMSE."""

    points: int
    trajectory_s: Number
    error: Number


class Speed(Record):
    """Seconds of a rollout beside the solver's, and whether data and training ever pay."""

    trajectories: int
    device: str
    """Where the operator was timed; the solver always runs on the CPU."""
    error: Number
    """Mean nRMSE of the operator on these trajectories."""
    alone_s: Number
    batched_s: Number
    batch: int
    """Of one rollout alone, and of one in a batch of so many."""
    solver: tuple[Solved, ...]
    """On grids from coarse to fine."""
    data_s: Number
    training_s: Number

    @property
    def equal(self) -> Solved | None:
        """The solver on the coarsest grid on which it errs no more than the operator."""
        return next((one for one in self.solver if one.error <= self.error), None)

    @property
    def breakeven(self) -> float:
        """Forecasts after which data, training and inference have cost less than the solver; infinite if never."""
        saved = self.equal.trajectory_s - self.batched_s if self.equal else math.nan
        return (self.data_s + self.training_s) / saved if saved > 0 else math.inf


class CheckpointFile(Record):
    """Weights that were evaluated."""

    file: str
    sha256: str


class EvaluationResult(Record):
    """One evaluation: on what, of which weights, and everything that was measured. Parts not evaluated are absent."""

    schema_version: int = SCHEMA_VERSION
    name: str = "evaluation"
    created_at: str | None = None
    split: str | None = None
    seed: int | None = None
    members: int | None = None
    trajectories: int | None = None
    steps: int | None = None
    given_frames: int | None = None
    """Where more than one frame of a trajectory is known, and forecasts start from the last of them."""
    data: DataFacts | None = None
    network: NetworkFacts | None = None
    """Of the operator; absent in files of earlier versions."""
    one_step: dict[str, Scores] = {}
    rollout: Rollout | None = None
    probabilistic: Ensembles | None = None
    probabilistic_rollout: Ensembles | None = None
    darcy: Darcy | None = None
    peers: dict[str, PeerResult] = {}
    speed: Speed | None = None
    checks: tuple[Check, ...] = ()
    checkpoints: dict[str, CheckpointFile] = {}
    unknown_descents: tuple[str, ...] | None = None
    """Stages whose checkpoints do not say what they were trained from."""
    config_yaml: str = ""
    environment: dict[str, str] = {}
    """Where the numbers were computed; empty in files of earlier versions."""

    def to_json(self) -> str:
        """The content of the file."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), indent=1, allow_nan=False) + "\n"


def read_result(path: Path) -> EvaluationResult:
    """Read what `to_json` wrote, now or in an older version.

    Raises BadInput for the file of a newer version, and for what is no evaluation.
    """
    try:
        content: Any = parse_json(read_text(path))
        if not isinstance(content, dict):
            raise ValueError(f"it is a {type(content).__name__}")
        version = content.get("schema_version", 1)
        if version not in READABLE:
            raise BadInput(
                f"{path}: schema_version {shown(version)}, but this version reads {' and '.join(map(str, READABLE))}. "
                "Evaluate again with this version, or report with the one that wrote it."
            )
        return EvaluationResult.model_validate(_upgraded(content))
    except ValidationError as error:
        fault = fault_of(error)
        reason = f"{'.'.join(map(shortened, fault.location))}: {fault.message}"
    except BadInput as error:
        if not isinstance(error, Unreadable):
            raise
        reason = error.reason
    except FileNotFoundError:
        reason = "there is no such file"
    except (ValueError, TypeError, AttributeError) as error:
        reason = first_line(error)
    raise BadInput(f"{path}: holds no evaluation ({reason}); evaluate again")


def _upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """Version 1 called checks gates, and their stretch goals goals."""
    checks = content.get("checks") or [
        {**gate, "stretch_goal": gate.get("goal")} for gate in content.get("gates") or ()
    ]
    return {**content, "schema_version": SCHEMA_VERSION, "checks": checks}
