"""One evaluation: every metric of the trained networks beside the trivial predictions that they must beat."""

import platform

import numpy as np
import torch

from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.evaluation.checks import check
from ups_models.evaluation.ensembles import one_step_ensembles, rollout_ensembles
from ups_models.evaluation.fields import data_facts, network_facts, one_step_errors, rollout_errors
from ups_models.evaluation.inputs import Arrays, EvalData, Models, OperatorCase, evenly_spaced
from ups_models.evaluation.result import EvaluationResult
from ups_models.evaluation.samplers import residual_samplers
from ups_models.evaluation.steady import steady_errors


@torch.no_grad()
def evaluate(
    cfg: PipelineConfig, settings: EvalConfig, models: Models, data: EvalData, *, device: torch.device
) -> tuple[EvaluationResult, Arrays]:
    """Everything measured in one evaluation, and the arrays that its plots are drawn from.

    Trajectories are evaluated from u0 for `rollout_steps`; ensembles on pairs and, if asked for, in rollouts.
    """
    result = EvaluationResult(
        split=settings.split, seed=settings.seed, members=settings.members, environment=_environment(device)
    )
    arrays: Arrays = {}
    if models.operator is not None and data.trajectories is not None:
        chosen = data.trajectories.select(evenly_spaced(settings.trajectories, len(data.trajectories.row)))
        steps = min(settings.rollout_steps, chosen.shape[1] - 1)
        u, parameters = chosen.u.to(device), chosen.conditioning().to(device)
        case = OperatorCase(models.operator, chosen, u, parameters, steps, cfg.operator.reencode_every)
        result, arrays = _with_fields(cfg, settings, models, case, result)
    if models.steady_prior is not None and data.steady is not None:
        darcy, more = steady_errors(
            models.steady_prior,
            data.steady,
            data.steady_train,
            settings,
            steps=cfg.prior.sampler_steps,
            device=device,
        )
        result, arrays = result.model_copy(update={"darcy": darcy}), arrays | more
    return result.model_copy(update={"checks": check(result)}), arrays


def _with_fields(
    cfg: PipelineConfig, settings: EvalConfig, models: Models, case: OperatorCase, result: EvaluationResult
) -> tuple[EvaluationResult, Arrays]:
    """One step, rollouts, and ensembles where there is a sampler."""
    rollouts, arrays = rollout_errors(case, settings.seed)
    found = {
        "trajectories": len(case.u),
        "steps": case.steps,
        "data": data_facts(case.data),
        "network": network_facts(case),
        "one_step": one_step_errors(case),
        "rollout": rollouts,
    }
    samplers = residual_samplers(cfg.denoiser, settings, models)
    if samplers:
        found["probabilistic"], more = one_step_ensembles(case, settings, samplers)
        arrays = arrays | more
    if samplers and settings.ensemble_trajectories:
        found["probabilistic_rollout"], more = rollout_ensembles(case, settings, samplers)
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
