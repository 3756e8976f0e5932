"""How each stage is trained: its budget, its optimiser, and what its loss has of its own."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ups_models.config.section import Count, Number, Section, no_bool

Unroll = Annotated[int, Field(ge=1, le=1000), BeforeValidator(no_bool)]
BATCH_SIZES = ("batch_size", "min_batch_size")
"""Fields of a stage that are divided among the shards of a step."""


class StageConfig(Section):
    """What every stage's training has: a budget in steps, an optimiser and an average of its weights."""

    epochs: Count = Field(10, ge=0, le=1_000_000, description="Epochs; 0 disables the stage.")
    steps_per_epoch: Count = Field(100, ge=1, le=1_000_000, description="Optimiser steps in an epoch.")
    batch_size: Count = Field(64, ge=1, le=65536, description="Samples in a batch.")
    lr: Number = Field(1e-3, gt=0, le=1, description="Peak learning rate of AdamW; falls to zero as a cosine.")
    warmup_steps: Count = Field(20, ge=0, le=1_000_000, description="Steps of linear warm-up.")
    weight_decay: Number = Field(1e-5, ge=0, le=1, description="Decoupled weight decay of AdamW.")
    grad_clip: Number = Field(1.0, gt=0, le=1e30, description="Largest norm of the gradient.")
    ema_decay: Number = Field(0.999, ge=0, lt=1, description="Decay of the average of the weights, per step.")

    init_from: Path | None = Field(
        None,
        description="A checkpoint of this stage from another run to start from: tensors of the same name and shape.",
    )

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole stage."""
        return self.epochs * self.steps_per_epoch


class UnrolledStageConfig(StageConfig):
    """Training that unrolls rollouts of a growing number of steps."""

    min_batch_size: Count = Field(16, ge=1, le=65536, description="The batch shrinks as K grows, but not below this.")
    initial_share: Number = Field(
        0.3,
        ge=0,
        le=1,
        validation_alias="initial_fraction",
        description="Fraction of windows that start at the initial field; also read as `initial_share`.",
    )


class OperatorStageConfig(UnrolledStageConfig):
    """Training of the operator: a multi-step unroll whose length grows."""

    lr: Number = Field(3e-3, gt=0, le=1, description="Peak learning rate of AdamW; falls to zero as a cosine.")
    unroll: tuple[Unroll, ...] = Field(
        (1, 2, 4, 8), min_length=1, description="Unrolled steps K, one for each equal part of the training."
    )
    reconstruction_weight: Number = Field(
        0.5, ge=0, le=1000, description="Weight of |D(E(u)) - u| (UPT's inverse encoding)."
    )
    consistency_weight: Number = Field(
        0.1, ge=0, le=1000, description="Weight of |P^k E(u_t) - E(u_{t+k})|^2 (LE-PDE)."
    )


class DiffResidualStageConfig(StageConfig):
    """Training of the residual's scale and of its denoiser."""

    ema_decay: Number = Field(0.998, ge=0, lt=1, description="Decay of the average of the weights, per step.")
    sigma_log_mean: Number = Field(-0.8, ge=-10, le=10, description="Mean of ln(sigma) in training.")
    sigma_log_std: Number = Field(1.2, gt=0, le=10, description="Standard deviation of ln(sigma) in training.")
    scale_warmup: Number = Field(0.15, ge=0, lt=1, description="Part of the training that fits the scale alone.")


class DistillStageConfig(UnrolledStageConfig):
    """Consistency distillation from the frozen teacher, then tuning of the student's forecasts by their CRPS."""

    lr: Number = Field(5e-4, gt=0, le=1, description="Peak learning rate of AdamW; falls to zero as a cosine.")
    ema_decay: Number = Field(0.95, ge=0, lt=1, description="Decay of the target network and of the saved average.")
    grid: Count = Field(12, ge=2, le=256, description="Noise levels N of the discretised trajectory.")
    tuned_share: Number = Field(
        0.0, ge=0, le=1, description="Last part of the training, which tunes whole rollouts by their CRPS; 0: none."
    )
    tuned_unroll: tuple[Unroll, ...] = Field(
        (1, 2, 4), min_length=1, description="Unrolled steps of that part, one for each equal part of it."
    )
    tuned_members: Count = Field(2, ge=2, le=64, description="Members of the ensembles whose CRPS is lowered.")
    tune_operator: bool = Field(
        False, description="Tune a copy of the operator too, which the student's file then holds."
    )
    crps_alpha: Number = Field(
        1.0, ge=0, le=1, description="Part of that CRPS that is fair to small ensembles; the rest is their own."
    )

    @property
    def tunes_operator(self) -> bool:
        """Whether the student has an operator of its own."""
        return self.tune_operator and self.tuned_share > 0


class PriorStageConfig(StageConfig):
    """Training of the steady prior."""

    objective: Literal["flow", "crps", "regression"] = Field(
        "flow",
        description="flow: samples by flow matching; crps: samples of one evaluation, trained by their CRPS; "
        "regression: the median, by the same network, to compare.",
    )
    members: Count = Field(2, ge=2, le=64, description="Samples whose CRPS is lowered (objective: crps).")
    tuned_share: Number = Field(
        0.4, gt=0, le=1, description="Last part of the training that lowers it; before, the median is learned."
    )

    def is_tuned(self, progress: float) -> bool:
        """Whether samples are trained by their CRPS at this progress in [0, 1)."""
        return self.objective == "crps" and progress >= 1 - self.tuned_share

    lr: Number = Field(2e-3, gt=0, le=1, description="Peak learning rate of AdamW; falls to zero as a cosine.")
    batch_size: Count = Field(32, ge=1, le=65536, description="Samples in a batch.")
    ema_decay: Number = Field(0.99, ge=0, lt=1, description="Decay of the average of the weights, per step.")
    hide_coefficient: Number = Field(
        0.1,
        ge=0,
        le=1,
        validation_alias="coefficient_dropout",
        description="Fraction of samples trained without the coefficient; also read as `hide_coefficient`.",
    )


class StagesConfig(Section):
    """The four stages."""

    operator: OperatorStageConfig = Field(default_factory=OperatorStageConfig, description="The latent operator.")
    diff_residual: DiffResidualStageConfig = Field(
        default_factory=DiffResidualStageConfig, description="EDM diffusion of the operator's residual."
    )
    consistency_distill: DistillStageConfig = Field(
        default_factory=DistillStageConfig, description="Few-step student of the diffusion."
    )
    steady_prior: PriorStageConfig = Field(default_factory=PriorStageConfig, description="Prior of steady states.")

    def of(self, stage: str) -> StageConfig:
        """The training of one stage, by its name."""
        section: StageConfig = getattr(self, stage)
        return section
