"""A plan: what happens to every stage and evaluation of a run, and the reasons a person is told."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tasks.services.stages.job import Job
from ups_models.config.schema import EvalConfig

logger = logging.getLogger(__name__)

Action = Literal["skip", "adopt", "train", "resume", "disabled"]


@dataclass(frozen=True)
class Decision:
    """What happens to a stage, and the reason a person is told."""

    stage: str
    action: Action
    reason: str
    warn: bool = False

    @property
    def runs(self) -> bool:
        """Whether the stage trains."""
        return self.action in ("train", "resume")


@dataclass(frozen=True)
class EvaluationDecision:
    """Whether an evaluation runs, with what settings, and the reason a person is told."""

    name: str
    run: bool
    reason: str
    settings: EvalConfig


@dataclass(frozen=True)
class Plan:
    """What will be done, in order, and for which stages named data files must be readable."""

    job: Job
    stages: tuple[Decision, ...]
    evaluations: tuple[EvaluationDecision, ...]
    needs_data: tuple[str, ...]
    retrain: Mapping[str, str] = field(default_factory=dict)
    """Why stages that hold something start again, those included that depend on one that does."""
    unknown_descents: tuple[str, ...] = ()

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do, but perhaps a report."""
        at_rest = all(decision.action in ("skip", "disabled") for decision in self.stages)
        return at_rest and not any(evaluation.run for evaluation in self.evaluations)

    @property
    def trained(self) -> tuple[str, ...]:
        """The stages that will train."""
        return tuple(decision.stage for decision in self.stages if decision.runs)

    def replaces(self, stage: str) -> bool:
        """Whether the stage's weights will be others than there are now."""
        return any(item.stage == stage and item.action == "train" for item in self.stages)


def announce(plan: Plan) -> None:
    """Tell a person what will happen, before it does."""
    for decision in plan.stages:
        level = logging.WARNING if decision.warn else logging.INFO
        logger.log(level, "%s: %s: %s", decision.stage, decision.action, decision.reason)
    for evaluation in plan.evaluations:
        action = "run" if evaluation.run else "skip"
        logger.info("%s: %s: %s", evaluation.name, action, evaluation.reason)
    if plan.unknown_descents:
        logger.warning(
            "descent unknown: the checkpoints of %s do not say what they were trained from; what they do say agrees, "
            "and reports name them",
            ", ".join(plan.unknown_descents),
        )
