"""The data in a config: which files, or what to solve for, on which grid, and which rows are held out."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ups_models.config.section import Count, Number, Section, no_bool
from ups_models.problems.problem import Problem
from ups_models.problems.registry import ADVECTION, BURGERS, EVOLVING

Parameter = Annotated[float, Field(gt=0, le=1000), BeforeValidator(no_bool)]
Limit = Annotated[int, Field(ge=3, le=1_000_000), BeforeValidator(no_bool)]


def _known_problem(name: str) -> str:
    if name not in EVOLVING:
        near = difflib.get_close_matches(name, EVOLVING, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"no problem with trajectories is called so{meant} Known: {', '.join(EVOLVING)}")
    return name


class GenerateConfig(Section):
    """Data we solve for ourselves when no files are named."""

    n: Count = Field(1216, ge=3, le=1_000_000, description="Trajectories in each file.")
    nt: Count = Field(41, ge=3, le=2001, description="Times stored, the initial one included.")
    t_end: Number = Field(2.0, gt=0, le=1_000_000, description="Last time, in the equation's unit of time.")
    parameters: tuple[Number | dict[str, Number], ...] = Field(
        (0.01,),
        min_length=1,
        description="One file for each: a number, or, where a problem has several parameters, a number for each name.",
    )


WANDB_ARTIFACT = "wandb-artifact://"
FILE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
WEB_ADDRESS = rf"https?://[^\s#?]+/{FILE_NAME}(\?\S*)?"
ARTIFACT_ADDRESS = rf"{WANDB_ARTIFACT}([A-Za-z0-9][A-Za-z0-9._-]*/){{2}}[A-Za-z0-9._-]+:[A-Za-z0-9._-]+/{FILE_NAME}"


class DownloadConfig(Section):
    """A data file to fetch: once, resumed after an interruption, and checked before it is used."""

    url: Annotated[str, Field(pattern=rf"^({WEB_ADDRESS}|{ARTIFACT_ADDRESS})$")] = Field(
        description="http(s) address of the file, or wandb-artifact://ENTITY/PROJECT/NAME:VERSION/FILE."
    )
    file: Annotated[str, Field(pattern=rf"^{FILE_NAME}$")] | None = Field(
        None, description="Name that the file gets; null: the last part of the address."
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None, description="sha256 of the whole file; it or md5 is needed."
    )
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = Field(
        None, description="MD5 of the whole file, where its publisher names no sha256."
    )

    @property
    def name(self) -> str:
        """The file's name."""
        return self.file or self.url.partition("?")[0].rpartition("/")[2]

    @model_validator(mode="after")
    def _is_told_apart(self) -> Self:
        if self.sha256 is None and self.md5 is None:
            raise ValueError("a digest is missing: give the sha256 or the md5 that the file's publisher names")
        if self.name.isdecimal():
            raise ValueError(f"the address ends in {self.name}, which names no kind of file: give file: NAME.hdf5")
        return self


class DataConfig(Section):
    """Trajectories to train the operator on: PDEBench-layout files, or our own solver's."""

    family: Annotated[str, AfterValidator(_known_problem)] = Field(
        "burgers1d", validation_alias="problem", description="Equation of the files; also read as `family`."
    )
    files: tuple[Path, ...] = Field((), description="PDEBench-layout HDF5 files; empty: generate them.")
    downloads: tuple[DownloadConfig, ...] = Field((), description="Files to fetch into the run's data/ instead.")
    generate: GenerateConfig = Field(default_factory=GenerateConfig, description="Used when `files` is empty.")
    points: Count = Field(
        256, ge=16, le=8192, description="Grid points the networks see along each axis, after the reduction."
    )
    reduced_resolution: Count = Field(1, ge=1, le=64, description="Keep every n-th grid point.")
    reduced_resolution_t: Count = Field(1, ge=1, le=100, description="Keep every n-th time.")
    test: Count = Field(
        128, ge=1, le=1_000_000, description="Rows of each file held out for the full evaluation (the first ones)."
    )
    val: Count = Field(
        64, ge=1, le=1_000_000, description="Rows of each file for validation (those after the test rows)."
    )
    limit: Limit | None = Field(None, description="Read at most this many rows of each file; null: all.")

    @property
    def problem(self) -> Problem:
        """The equation of the files."""
        return EVOLVING[self.family]

    @property
    def values(self) -> tuple[dict[str, float], ...]:
        """The parameters of each file that we solve for, by name."""
        names = [one.name for one in self.problem.parameters]
        return tuple(
            dict(one) if isinstance(one, dict) else dict.fromkeys(names, one) for one in self.generate.parameters
        )

    @model_validator(mode="before")
    @classmethod
    def _as_the_problem_has_it(cls, given: Any) -> Any:
        """What is not said of the data to solve for is said by the problem; the section's defaults are Burgers'."""
        if not isinstance(given, dict):
            return given
        problem = EVOLVING.get(str(given.get("problem", given.get("family", BURGERS.name))))
        generate = given.get("generate") or {}
        if problem in (None, BURGERS, ADVECTION) or not isinstance(generate, dict):
            return given
        sampling = problem.sampling
        own = {"nt": sampling.nt, "t_end": sampling.t_end, "parameters": [problem.defaults]}
        return {"points": sampling.points, **given, "generate": {**own, **generate}}

    @model_validator(mode="after")
    def _is_solvable(self) -> Self:
        if not self.files and not self.downloads:
            for number, values in enumerate(self.values):
                if fault := self.problem.fault_of(values):
                    raise ValueError(f"generate.parameters.{number}: {fault}")
        return self


class SteadyGenerateConfig(Section):
    """Darcy samples we solve for ourselves when no files are named."""

    n: Count = Field(600, ge=3, le=1_000_000, description="Samples in each file.")
    parameters: tuple[Parameter, ...] = Field((1.0,), min_length=1, description="One file for each beta, the force.")


class SteadyDataConfig(Section):
    """Pairs of coefficient and steady state for the steady prior (2D Darcy flow)."""

    files: tuple[Path, ...] = Field((), description="PDEBench-layout HDF5 files; empty: generate them.")
    downloads: tuple[DownloadConfig, ...] = Field((), description="Files to fetch into the run's data/ instead.")
    generate: SteadyGenerateConfig = Field(
        default_factory=SteadyGenerateConfig, description="Used when `files` is empty."
    )
    size: Count = Field(32, ge=8, le=512, description="Grid points along each axis, after the reduction.")
    reduced_resolution: Count = Field(1, ge=1, le=64, description="Keep every n-th grid point of each axis.")
    test: Count = Field(64, ge=1, le=1_000_000, description="Rows of each file held out for the full evaluation.")
    val: Count = Field(32, ge=1, le=1_000_000, description="Rows of each file for validation.")
    limit: Limit | None = Field(None, description="Read at most this many rows of each file; null: all.")
