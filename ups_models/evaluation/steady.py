"""The prior of steady states, beside guesses that need no network."""

import torch
from torch import Tensor

from ups_models.config.schema import EvalConfig
from ups_models.data.fields import SteadyFields
from ups_models.evaluation.ensembles import ensemble_scores
from ups_models.evaluation.inputs import Arrays, evenly_spaced
from ups_models.evaluation.parts import DARCY
from ups_models.evaluation.registry import measure
from ups_models.evaluation.result import Darcy
from ups_models.evaluation.samples import Ensemble, Forecast
from ups_models.nn.prior import Prior
from ups_models.nn.sampling import noise, sample_flow

SPACE = (-2, -1)
PANELS, PANEL_SAMPLES = 3, 3


def steady_errors(
    prior: Prior,
    data: SteadyFields,
    train: SteadyFields | None,
    settings: EvalConfig,
    *,
    steps: int,
    device: torch.device,
) -> tuple[Darcy, Arrays]:
    """Samples of the steady state for evenly spread coefficients; the guesses come from the training fields."""
    data = data.select(evenly_spaced(settings.steady_samples, len(data.a)))
    rng = torch.Generator(device).manual_seed(settings.seed)
    members = sample_steady(prior, data, members=settings.members, steps=steps, rng=rng).cpu()
    target = data.u
    scale, grid = target.square().mean((1, 2)).sqrt(), tuple(target.shape[1:])
    ensemble = Ensemble(members.flatten(2), target.flatten(1), scale, steps, settings.seed, grid)
    guesses = {} if train is None else _guesses(data, train)
    found = Darcy.model_validate(
        {
            "samples": len(target),
            "steady_prior": ensemble_scores(DARCY, ensemble),
            **{name: measure(DARCY, Forecast(guess, target, SPACE)) for name, guess in guesses.items()},
        }
    )
    arrays: Arrays = {
        "darcy_a": data.a[:PANELS].numpy(),
        "darcy_truth": target[:PANELS].numpy(),
        "darcy_samples": members[:PANEL_SAMPLES, :PANELS].transpose(0, 1).numpy(),
    }
    return found, arrays


def sample_steady(prior: Prior, data: SteadyFields, *, members: int, steps: int, rng: torch.Generator) -> Tensor:
    """Samples of the steady state for each coefficient: (M, N, H, W)."""
    a, beta = data.a.to(rng.device), data.beta.to(rng.device)
    known = torch.ones(len(a), device=rng.device)
    samples = []
    for _ in range(members):
        start = noise(tuple(a.shape), rng)
        samples.append(sample_flow(lambda x, t: prior(x, t, a, known), start, steps))
    return torch.stack(samples) * prior.unit * beta[:, None, None]


def _guesses(data: SteadyFields, train: SteadyFields) -> dict[str, Tensor]:
    """The mean training field, and the same scaled by how conducting a sample is: u ~ shape / mean(a)."""
    unit = train.u / train.beta[:, None, None]
    conducting = train.a.mean((1, 2))[:, None, None]
    force = data.beta[:, None, None]
    return {
        "mean_field": unit.mean(0) * force,
        "inverse_coefficient": (unit * conducting).mean(0) * force / data.a.mean((1, 2))[:, None, None],
    }
