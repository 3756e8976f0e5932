"""What a sweep is asked for: a config, and its points, which are settings that override it."""

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from flows.requests.job import find_config, parse
from flows.requests.train import TrainRequest
from tasks.services.run.status import read_status
from tasks.services.stages.job import Job
from ups_models.config.loading import load_config
from ups_models.config.section import Section
from ups_models.errors import BadInput
from ups_models.stages.spec import SPECS
from ups_models.wording import shown

LONGEST_NAME = 80
"""Of a point; a longer one ends in a digest."""
MAX_RUNS = 10_000
"""Runs of a sweep."""
UNCHANGED = "unchanged"
"""Name of the point that overrides nothing."""


class SweepConfig(Section):
    """A file of `ups sweep`."""

    config: Path = Field(Path("configs/quickstart.yaml"), description="The config that every point starts from.")
    set: tuple[str, ...] = Field((), description="Settings of all points, as key=value.")
    grid: dict[str, list[Any]] = Field({}, description="Values of keys of the config; every combination is a point.")
    points: tuple[dict[str, Any], ...] = Field((), description="Or the points one by one, each a mapping of keys.")

    @model_validator(mode="after")
    def _has_points(self) -> Self:
        if bool(self.grid) == bool(self.points):
            raise ValueError("should have `grid` or `points`, one of them")
        if empty := [key for key, values in self.grid.items() if not values]:
            raise ValueError(f"grid.{empty[0]} has no value")
        if self.n_points > MAX_RUNS:
            raise ValueError(f"has {self.n_points} points; a sweep has at most {MAX_RUNS} runs")
        listed = [pair for point in self.points for pair in point.items()]
        given = listed or [(key, value) for key, values in self.grid.items() for value in values]
        if wrong := next((pair for pair in given if not _is_json(pair[1])), None):
            raise ValueError(f"{wrong[0]}: {shown(wrong[1])} is no value of a config: write a number, a text or a list")
        settings = [one.partition("=")[0] for one in self.set] + [key for key, _ in given]
        if "seed" in settings:
            raise ValueError("seed is no setting of a sweep: every point has the same seeds, --seeds N")
        return self

    @property
    def n_points(self) -> int:
        """How many there are."""
        return len(self.points) or math.prod(map(len, self.grid.values()))

    @property
    def settings(self) -> list[Mapping[str, Any]]:
        """What each point overrides."""
        if self.points:
            return list(self.points)
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: a point with a seed."""

    point: str
    seed: int
    request: TrainRequest

    @property
    def name(self) -> str:
        """Of the run, and of its folder in that of the sweep."""
        return f"{self.point}/seed{self.seed}"

    @property
    def arguments(self) -> list[str]:
        """Of `ups train`."""
        given = ["--config", str(self.request.config), "--run-dir", str(self.request.run_dir), "--auto-resume"]
        return [*given, *(argument for setting in self.request.set for argument in ("--set", setting))]

    def job(self) -> Job:
        """What is to be done for it. Raises BadInput."""
        return parse(self.request)

    def require_same_settings(self) -> None:
        """Raise BadInput where the run in its folder was trained with other settings than the sweep has now."""
        job = self.job()
        for name, record in read_status(job.run.status).stages.items():
            if record.status == "completed" and not SPECS[name].is_config_hash(record.config_hash, job.cfg):
                raise BadInput(
                    f"{job.run.root}: {name} was trained with other settings than the sweep has now; choose another "
                    "--out, or remove this folder"
                )


def trials_of(path: Path, root: Path, seeds: Sequence[int]) -> list[Trial]:
    """Every point of the sweep in a file with every seed, in folders below `root`; seeds come last.

    Raises BadInput for a file that is no sweep, a point that is there twice, and settings that the config refuses.
    """
    sweep = load_config(find_sweep(path), schema=SweepConfig)
    config = find_config(sweep.config)
    if (n_runs := sweep.n_points * len(seeds)) > MAX_RUNS:
        raise BadInput(f"{path}: would make {n_runs} runs, with {len(seeds)} seeds; a sweep has at most {MAX_RUNS}")
    known: dict[str, int] = {}
    trials: list[Trial] = []
    for number, settings in enumerate(sweep.settings):
        name = name_of(settings)
        overrides = (*sweep.set, *(f"{key}={_as_yaml(value)}" for key, value in settings.items()))
        for seed in seeds:
            request = TrainRequest(
                config=config, set=(*overrides, f"seed={seed}"), run_dir=root / name / f"seed{seed}", auto_resume=True
            )
            trials.append(Trial(name, seed, request))
        whole, *_ = [_config_of(path, trial) for trial in trials[-len(seeds) :]]  # each may be refused
        if (twin := known.setdefault(whole, number)) != number:
            raise BadInput(f"{path}: point {number + 1} is point {twin + 1} again: {shown(name)}; leave one out")
    return trials


def _config_of(path: Path, trial: Trial) -> str:
    """The whole config of a trial, as text: 4 and 4.0 are the same there. Raises BadInput."""
    try:
        return trial.job().cfg.model_dump_json()
    except BadInput as error:
        raise BadInput(f"{path}: point {trial.point}: {error}") from None


def find_sweep(path: Path) -> Path:
    """The path itself, or, where it does not exist, the sweep that we ship."""
    return path if path.exists() else find_config(Path("configs") / "sweeps" / path.with_suffix(".yaml").name)


def name_of(settings: Mapping[str, Any]) -> str:
    """`operator.width=64,latent.dim=4`, as a folder can be called."""
    whole = ",".join(f"{key}={_as_yaml(value)}" for key, value in settings.items())
    name = re.sub(r"[^\w.,=+-]+", "_", whole) or UNCHANGED
    if name in (whole, UNCHANGED) and len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{sha256(whole.encode()).hexdigest()[:8]}"


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _as_yaml(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
