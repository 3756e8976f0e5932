"""Numbers that shape a result and are no settings: named once, used by the code, and part of every fingerprint."""

from collections.abc import Mapping

ADAMW_BETAS = (0.9, 0.98)
EMA_WARMUP = 10
"""The average's decay at step t is at most (1 + t) / (EMA_WARMUP + t)."""

OPERATOR_COND_WIDTH, OPERATOR_OCTAVES = 32, 4
DENOISER_COND_WIDTH, DENOISER_OCTAVES = 64, 6
LOWEST_LOG_SCALE, HIGHEST_LOG_SCALE = -13.0, 0.0
"""ln s of the residual's scale moves between these."""
PSEUDO_HUBER = 0.00054
"""c / sqrt(dim) of the pseudo-Huber distance. Song & Dhariwal 2024, eq. 7."""

_TRAINING = {"adamw_betas": ADAMW_BETAS, "ema_warmup": EMA_WARMUP}
_DENOISER = {
    "cond_width": DENOISER_COND_WIDTH,
    "octaves": DENOISER_OCTAVES,
    "log_scale": (LOWEST_LOG_SCALE, HIGHEST_LOG_SCALE),
}
CONSTANTS: Mapping[str, Mapping[str, object]] = {
    "operator": {**_TRAINING, "cond_width": OPERATOR_COND_WIDTH, "octaves": OPERATOR_OCTAVES},
    "diff_residual": {**_TRAINING, **_DENOISER},
    "consistency_distill": {**_TRAINING, **_DENOISER, "pseudo_huber": PSEUDO_HUBER},
    "steady_prior": _TRAINING,
}
"""By stage: what its fingerprint holds besides the settings."""
