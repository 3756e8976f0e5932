"""The data in a config: which files, or what to solve for, on which grid, and which rows are held out."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ups_models.config.section import Count, Number, Section, Sizes, no_bool
from ups_models.errors import BadInput
from ups_models.own_code import own_code
from ups_models.problems.finding import evolving_problem
from ups_models.problems.problem import Problem
from ups_models.problems.registry import ADVECTION, BURGERS

Points = Annotated[int | tuple[int, ...], Sizes(16, 8192)]
Parameter = Annotated[float, Field(gt=0, le=1000), BeforeValidator(no_bool)]
Limit = Annotated[int, Field(ge=3, le=1_000_000), BeforeValidator(no_bool)]


def _known_problem(name: str) -> str:
    try:
        evolving_problem(name)
    except BadInput as error:
        raise ValueError(str(error)) from None
    return name


def _known_code(reference: str) -> str:
    try:
        own_code(reference).load()
    except BadInput as error:
        raise ValueError(str(error)) from None
    return reference


OwnCode = Annotated[str, AfterValidator(_known_code)]
"""An object in a Python file of the user's, which is there and can be imported."""


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
    """Trajectories to train the operator on: files of a known layout, or our own solver's."""

    family: Annotated[str, AfterValidator(_known_problem)] = Field(
        "burgers1d",
        validation_alias="problem",
        description="Equation of the files, or one of your own, as my_pde.py:NAME; also read as `family`.",
    )
    layout: OwnCode | None = Field(
        None, description="A function of your own that reads the files, as my_layout.py:read; null: known layouts."
    )
    files: tuple[Path, ...] = Field(
        (), description="Files of PDEBench, The Well or plain arrays (HDF5, .npz); empty: generate them."
    )
    downloads: tuple[DownloadConfig, ...] = Field((), description="Files to fetch into the run's data/ instead.")
    parameters: dict[str, Number] = Field({}, description="Values of parameters that the files do not tell.")
    generate: GenerateConfig = Field(default_factory=GenerateConfig, description="Used when `files` is empty.")
    points: Points = Field(
        256,
        description="Grid points the networks see, after the reduction: a number for all axes, or one for each.",
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
    repeats: Literal["refuse", "together"] = Field(
        "refuse", description="Rows that are the same as others: an error, or together on one side of the split."
    )
    in_memory_gb: Number = Field(
        8.0, ge=0, le=100_000, description="Fields of a file that are larger are read in windows from a temporary file."
    )

    @property
    def problem(self) -> Problem:
        """The equation of the files."""
        return evolving_problem(self.family)

    @property
    def grid(self) -> tuple[int, ...]:
        """Grid points along each axis."""
        return along_axes(self.points, self.problem)

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
        try:
            problem = evolving_problem(str(given.get("problem", given.get("family", BURGERS.name))))
        except BadInput:  # said where the field is looked at
            return given
        given = _spelt_out(given, problem)
        generate = given.get("generate") or {}
        if problem in (BURGERS, ADVECTION) or not isinstance(generate, dict):
            return given
        sampling = problem.sampling
        own = {"nt": sampling.nt, "t_end": sampling.t_end, "parameters": [problem.defaults]}
        return {"points": sampling.points, **given, "generate": {**own, **generate}}

    @model_validator(mode="after")
    def _names_the_parameters(self) -> Self:
        """A number stands for the only parameter; of several each is named."""
        names = [one.name for one in self.problem.parameters]
        numbers = [one for one in self.generate.parameters if not isinstance(one, dict)]
        if len(names) > 1 and numbers and not self.files and not self.downloads:
            example = ", ".join(f"{name}: {numbers[0]:g}" for name in names)
            raise ValueError(
                f"generate.parameters: {numbers[0]:g} is one number, but {self.family} has several: write {{{example}}}"
            )
        return self

    @model_validator(mode="after")
    def _has_data(self) -> Self:
        if fault := fault_of_axes("points", self.points, self.problem):
            raise ValueError(fault)
        if fault := self.problem.fault_of({**self.problem.defaults, **self.parameters}):
            raise ValueError(f"parameters: {fault}")
        if not self.files and not self.downloads:
            if self.problem.solver is None or isinstance(self.points, tuple):
                raise ValueError(
                    f"{self.family} with points={self.points} is not solved here: name its files in data.files or "
                    "data.downloads"
                )
            for number, values in enumerate(self.values):
                if values in self.values[:number]:
                    raise ValueError(
                        f"generate.parameters.{number}: is there twice, and would be one file; leave one out"
                    )
                if fault := self.problem.fault_of(values):
                    raise ValueError(f"generate.parameters.{number}: {fault}")
        return self


def _spelt_out(given: dict[str, Any], problem: Problem) -> dict[str, Any]:
    """The section with parameters under the problem's own names, in whatever case they are written."""

    def by_name(values: Any) -> Any:
        is_named = isinstance(values, dict) and all(isinstance(name, str) for name in values)
        return problem.spelt_out(values) if is_named else values

    found, generate = {**given}, given.get("generate")
    if "parameters" in given:
        found["parameters"] = by_name(given["parameters"])
    if isinstance(generate, dict) and isinstance(generate.get("parameters"), list | tuple):
        found["generate"] = {**generate, "parameters": [by_name(one) for one in generate["parameters"]]}
    return found


def along_axes(value: int | tuple[int, ...], problem: Problem) -> tuple[int, ...]:
    """A number for each axis."""
    return value if isinstance(value, tuple) else (value,) * problem.dimensions


def fault_of_axes(name: str, value: int | tuple[int, ...], problem: Problem) -> str:
    """What is wrong with numbers along axes; empty where nothing is."""
    if isinstance(value, tuple) and len(value) != problem.dimensions:
        return f"{name}={list(value)} has {len(value)} numbers, but {problem.name} has {problem.dimensions} axes"
    return ""


class SteadyGenerateConfig(Section):
    """Darcy samples we solve for ourselves when no files are named."""

    n: Count = Field(600, ge=3, le=1_000_000, description="Samples in each file.")
    parameters: tuple[Parameter, ...] = Field((1.0,), min_length=1, description="One file for each beta, the force.")


class KnownConfig(Section):
    """What is known of a coefficient; by default all of it, and then the state is a point, which a regression finds."""

    coarse: Count = Field(1, ge=1, le=256, description="Points along each axis of which only the mean is known.")
    hidden: Number = Field(0.0, ge=0, lt=1, description="Share of these squares of which nothing is known.")
    noise: Number = Field(0.0, ge=0, le=10, description="Standard deviation of an error in ln a.")

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to be uncertain of."""
        return self == KnownConfig()


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
    known: KnownConfig = Field(default_factory=KnownConfig, description="What networks are shown of the coefficient.")

    @model_validator(mode="after")
    def _can_be_shown(self) -> Self:
        if self.size % self.known.coarse:
            raise ValueError(f"known.coarse={self.known.coarse} does not divide size={self.size}")
        return self
