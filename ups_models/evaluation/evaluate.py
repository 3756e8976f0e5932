"""One evaluation: every metric of the trained networks beside the trivial predictions that they must beat."""

import platform
from typing import Any

import numpy as np
import torch

from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.evaluation.checks import check
from ups_models.evaluation.ensembles import one_step_ensembles, rollout_ensembles
from ups_models.evaluation.fields import data_facts, network_facts, one_step_errors, rollout_errors
from ups_models.evaluation.forecasts import Ask, Forecasts, Question
from ups_models.evaluation.inputs import Arrays, EvalData, Models, OperatorCase
from ups_models.evaluation.result import EvaluationResult
from ups_models.evaluation.steady import steady_errors


@torch.no_grad()
def evaluate(
    cfg: PipelineConfig,
    settings: EvalConfig,
    models: Models,
    data: EvalData,
    *,
    device: torch.device,
    ask: Ask | None = None,
) -> tuple[EvaluationResult, Arrays]:
    """Everything measured in one evaluation, and the arrays that its plots are drawn from.

    Trajectories are evaluated for `rollout_steps` from the last of the `given_frames`; ensembles on pairs and, if asked
    for, in rollouts. `ask` has other processes answer for the networks, with the same digits.
    """
    forecasts = Forecasts(cfg, settings, models, data, device)
    result = EvaluationResult(
        split=settings.split, seed=settings.seed, members=settings.members, environment=_environment(device)
    )
    arrays: Arrays = {}
    if forecasts.case is not None:
        result, arrays = _with_fields(forecasts.case, forecasts, ask, result)
    if models.steady_prior is not None and forecasts.steady is not None:
        members = forecasts.all(Question("steady"), ask)
        darcy, more = steady_errors(
            members, forecasts.steady, data.steady_train, nfe=forecasts.flow_steps or 1, seed=settings.seed
        )
        result, arrays = result.model_copy(update={"darcy": darcy}), more | arrays
    return result.model_copy(update={"checks": check(result)}), arrays


def _with_fields(
    case: OperatorCase, forecasts: Forecasts, ask: Ask | None, result: EvaluationResult
) -> tuple[EvaluationResult, Arrays]:
    """One step, rollouts, and ensembles where there is a sampler."""
    rollouts, arrays = rollout_errors(case, forecasts.all(Question("rollout"), ask), forecasts.seed)
    found: dict[str, Any] = {
        "trajectories": len(case.u),
        "steps": case.steps,
        "given_frames": forecasts.settings.given_frames if forecasts.settings.given_frames > 1 else None,
        "data": data_facts(case.data, forecasts.settings.given_frames),
        "network": network_facts(case),
        "one_step": one_step_errors(case, forecasts.all(Question("one_step"), ask)),
        "rollout": rollouts,
    }
    if forecasts.samplers:
        found["probabilistic"], more = one_step_ensembles(case, forecasts, ask)
        arrays = arrays | more
    if forecasts.samplers and forecasts.settings.ensemble_trajectories:
        found["probabilistic_rollout"], more = rollout_ensembles(case, forecasts, ask)
        arrays = arrays | more
    return result.model_copy(update=found), arrays


def _environment(device: torch.device) -> dict[str, str]:
    """Where the numbers were computed: exactness is promised on the same kind of machine only."""
    facts = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "device": str(device),
        "torch threads": str(torch.get_num_threads()),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts
