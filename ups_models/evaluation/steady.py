"""The prior of steady states, beside guesses that need no network."""

import torch
from torch import Tensor

from ups_models.data.fields import SteadyFields
from ups_models.evaluation.ensembles import ensemble_scores
from ups_models.evaluation.inputs import Arrays, row_arrays
from ups_models.evaluation.parts import DARCY
from ups_models.evaluation.registry import measure
from ups_models.evaluation.result import Darcy, Scores
from ups_models.evaluation.samples import Ensemble, Forecast
from ups_models.nn.prior import Prior, at_start

SPACE = (-2, -1)
PANELS, PANEL_SAMPLES = 3, 3


def steady_errors(
    members: Tensor, data: SteadyFields, train: SteadyFields | None, *, nfe: int, seed: int
) -> tuple[Darcy, Arrays]:
    """Of samples (M, N, H, W) of the steady states; the guesses come from the training fields."""
    target = data.u
    scale, grid = target.square().mean((1, 2)).sqrt(), tuple(target.shape[1:])
    ensemble = Ensemble(members.flatten(2), target.flatten(1), scale, nfe, seed, grid)
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
    return found, row_arrays(ensemble.member_errors.mean(0), target) | arrays


def regression_errors(prior: Prior, data: SteadyFields) -> Scores:
    """Of a network that was trained as a regression: one forecast for each coefficient."""
    device = next(prior.parameters()).device
    with torch.no_grad():
        found = prior(*at_start(data.a.to(device))) * prior.unit * data.beta.to(device)[:, None, None]
    return measure(DARCY, Forecast(found.cpu(), data.u, SPACE))


def _guesses(data: SteadyFields, train: SteadyFields) -> dict[str, Tensor]:
    """The mean training field, and the same scaled by how conducting a sample is: u ~ shape / mean(a)."""
    unit = train.u / train.beta[:, None, None]
    conducting = train.a.mean((1, 2))[:, None, None]
    force = data.beta[:, None, None]
    return {
        "mean_field": unit.mean(0) * force,
        "inverse_coefficient": (unit * conducting).mean(0) * force / data.a.mean((1, 2))[:, None, None],
    }
