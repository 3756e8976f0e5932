"""A request that was checked without a look at the run: what to train and evaluate, where, and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tasks.services.run.paths import RunDir
from tasks.services.tracking.restoring import ResumeMode
from tasks.services.tracking.run_path import RunPath
from ups_models.config.schema import EvalConfig, PipelineConfig


@dataclass(frozen=True)
class Policy:
    """What the user allowed."""

    stage: str = "all"
    auto_resume: bool = False
    force_train: bool = False
    skip_training: bool = False

    def selects(self, stage: str) -> bool:
        """Whether this stage was asked for."""
        return not self.skip_training and self.stage in ("all", stage)


@dataclass(frozen=True)
class Source:
    """The W&B run whose checkpoints are restored first."""

    path: RunPath
    mode: ResumeMode = "allow"
    force: bool = False


@dataclass(frozen=True)
class Job:
    """All that is known before the run is looked at."""

    cfg: PipelineConfig
    run: RunDir
    policy: Policy = Policy()
    evaluations: Mapping[str, EvalConfig] = field(default_factory=dict)
    redo: frozenset[str] = frozenset()
    source: Source | None = None
