"""The fingerprints of the first edition, kept so that its runs resume, evaluate, upload and restore.

It hashed every value of a section, defaults included; so the names of its fields, in its order, are part of the format.
"""

from typing import Any

from ups_models.config.section import Section

_STAGE = ("epochs", "steps_per_epoch", "batch_size", "lr", "warmup_steps", "weight_decay", "grad_clip", "ema_decay")
FIELDS: dict[str, tuple[str, ...]] = {
    "PipelineConfig": ("seed", "data", "steady_data", "latent", "operator", "denoiser", "prior", "stages"),
    "DataConfig": (
        "family",
        "files",
        "downloads",
        "generate",
        "points",
        "reduced_resolution",
        "reduced_resolution_t",
        "test",
        "val",
        "limit",
    ),
    "GenerateConfig": ("n", "nt", "t_end", "parameters"),
    "DownloadConfig": ("url", "sha256"),
    "SteadyDataConfig": ("files", "downloads", "generate", "size", "reduced_resolution", "test", "val", "limit"),
    "SteadyGenerateConfig": ("n", "parameters"),
    "LatentConfig": ("dim", "tokens"),
    "OperatorConfig": ("width", "blocks", "codec_blocks", "modes", "reencode_every"),
    "DenoiserConfig": ("width", "blocks", "modes", "scale_groups", "sigma_min", "sigma_max", "rho", "sampler_steps"),
    "PriorConfig": ("channels", "levels", "sampler_steps"),
    "StagesConfig": ("operator", "diff_residual", "consistency_distill", "steady_prior"),
    "OperatorStageConfig": (
        *_STAGE,
        "unroll",
        "min_batch_size",
        "initial_share",
        "reconstruction_weight",
        "consistency_weight",
    ),
    "DiffResidualStageConfig": (*_STAGE, "sigma_log_mean", "sigma_log_std", "scale_warmup"),
    "DistillStageConfig": (*_STAGE, "grid"),
    "PriorStageConfig": (*_STAGE, "hide_coefficient"),
    "EvalConfig": (
        "split",
        "trajectories",
        "rollout_steps",
        "members",
        "one_step_pairs",
        "ensemble_trajectories",
        "ensemble_members",
        "steady_samples",
        "student_steps",
        "seed",
    ),
}


def values_of(section: Section) -> dict[str, Any]:
    """What the first edition hashed of a section: its own fields with their values, and nothing that came later."""
    names = next(FIELDS[base.__name__] for base in type(section).__mro__ if base.__name__ in FIELDS)
    dumped = section.model_dump(mode="json")
    return {name: _value_of(getattr(section, name), dumped[name]) for name in names}


def _value_of(value: object, dumped: Any) -> Any:
    if isinstance(value, Section):
        return values_of(value)
    if isinstance(value, tuple) and value and isinstance(value[0], Section):
        return [values_of(item) for item in value]
    return dumped
