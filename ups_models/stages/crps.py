"""The score that ensembles are trained by."""

import torch
from torch import Tensor


def almost_fair_crps(members: Tensor, truth: Tensor, alpha: float) -> Tensor:
    """Of members (M, ...) and truth (...), point by point.

    mean_i |x_i - y| - (1 - (1 - alpha) / M) / (2 M (M - 1)) sum_ij |x_i - x_j|: fair for alpha = 1; a little less keeps
    members from drifting apart unpunished where all but one are exact. Lang et al. 2024 (AIFS-CRPS), eq. 4.
    """
    count = len(members)
    skill: Tensor = (members - truth).abs().mean(0)
    apart = torch.stack([(members - one).abs().mean(0) for one in members]).sum(0) / (2 * (count - 1))
    return skill - (1 - (1 - alpha) / count) * apart
