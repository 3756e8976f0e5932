"""The checks: bounds that a finished quickstart is expected to keep, a row each."""

import math
from dataclasses import dataclass
from typing import Literal

from ups_models.evaluation.parts import DARCY, ENSEMBLES, ONE_STEP, ROLLOUT, Part, score
from ups_models.evaluation.result import Check, EvaluationResult

Which = tuple[Part, str, str]
"""Part, model and metric of one number."""


@dataclass(frozen=True)
class CheckRow:
    """A number, or the quotient of two, with its bound; it applies where all its numbers were measured."""

    name: str
    number: Which
    bound: float
    over: Which | None = None
    stretch_goal: float | None = None
    sense: Literal["<=", ">="] = "<="
    absolute: bool | None = None
    """Whether it is for the problems whose error as such is known, or for the others; None: for all."""

    def check(self, result: EvaluationResult) -> Check | None:
        """The check of one evaluation; a quotient of zero keeps no bound."""
        is_known = result.data is None or result.data.family in KNOWN
        if self.absolute is not None and self.absolute != is_known:
            return None
        value = score(result, *self.number)
        over = 1.0 if self.over is None else score(result, *self.over)
        if value is None or over is None:
            return None
        return Check(
            name=self.name,
            value=value / over if over else math.nan,
            bound=self.bound,
            stretch_goal=self.stretch_goal,
            sense=self.sense,
        )


KNOWN = ("burgers1d", "advection1d")
"""Problems that bounds of the error as such were measured for; others are held against the trivial forecasts."""
CHECKS = (
    CheckRow("rollout nRMSE, mean", (ROLLOUT, "operator", "mean"), 0.030, stretch_goal=0.015, absolute=True),
    CheckRow("one-step nRMSE", (ONE_STEP, "operator", "nrmse"), 0.015, absolute=True),
    CheckRow(
        "rollout nRMSE / that of persistence",
        (ROLLOUT, "operator", "mean"),
        0.3,
        over=(ROLLOUT, "persistence", "mean"),
        absolute=False,
    ),
    CheckRow(
        "rollout nRMSE / that of the constant mean",
        (ROLLOUT, "operator", "mean"),
        0.5,
        over=(ROLLOUT, "constant_mean", "mean"),
        absolute=False,
    ),
    CheckRow(
        "diffusion CRPS / operator MAE", (ENSEMBLES, "diffusion", "crps"), 1.0, over=(ENSEMBLES, "operator", "mae")
    ),
    CheckRow(
        "diffusion nCRPS / same-scale Gaussian nCRPS",
        (ENSEMBLES, "diffusion", "ncrps"),
        1.0,
        over=(ENSEMBLES, "gaussian", "ncrps"),
    ),
    CheckRow(
        "2-evaluation student CRPS / teacher CRPS",
        (ENSEMBLES, "consistency_2", "crps"),
        1.15,
        over=(ENSEMBLES, "diffusion", "crps"),
    ),
    CheckRow(
        "student evaluations / teacher evaluations",
        (ENSEMBLES, "consistency_2", "nfe"),
        0.2,
        over=(ENSEMBLES, "diffusion", "nfe"),
    ),
    CheckRow(
        "teacher sample std / student sample std",
        (ENSEMBLES, "diffusion", "sample_std"),
        2.0,
        over=(ENSEMBLES, "consistency_2", "sample_std"),
    ),
    CheckRow("steady prior member nRMSE", (DARCY, "steady_prior", "member_nrmse"), 0.25),
    CheckRow(
        "steady prior CRPS / MAE of its mean",
        (DARCY, "steady_prior", "crps"),
        1.0,
        over=(DARCY, "steady_prior", "mae_of_mean"),
    ),
)


def check(result: EvaluationResult, rows: tuple[CheckRow, ...] = CHECKS) -> tuple[Check, ...]:
    """The checks of one evaluation, as far as it has their numbers."""
    found = (row.check(result) for row in rows)
    return tuple(it for it in found if it is not None)
