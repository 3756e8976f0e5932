"""The configuration: every default, bound, unit and meaning, declared once and checked once."""

import math
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ups_models.config.data import DataConfig, DownloadConfig, OwnCode, SteadyDataConfig, along_axes, fault_of_axes
from ups_models.config.section import Count, Number, Section, Sizes, is_power_of_two, no_bool
from ups_models.config.stages import BATCH_SIZES, StagesConfig

Tokens = Annotated[int | tuple[int, ...], Sizes(4, 4096)]
Processes = Annotated[int, Field(ge=1, le=256), BeforeValidator(no_bool)]
StudentSteps = Annotated[int, Field(ge=1, le=4), BeforeValidator(no_bool)]
PeerName = Literal["fno", "unet", "dilresnet", "regression"]


class LatentConfig(Section):
    """The latent state z: `tokens` positions on the domain, `dim` channels each."""

    dim: Count = Field(8, ge=1, le=1024, description="Channels of each latent token.")
    tokens: Tokens = Field(
        32,
        description="Latent tokens: a number for all axes, or one for each; must divide the grid points.",
    )


Options = dict[str, int | float | str | bool]


class OperatorConfig(Section):
    """The deterministic latent operator."""

    network: OwnCode | None = Field(None, description="A network of your own, as my_net.py:Net; null: ours.")
    options: Options = Field({}, description="Arguments of a network of your own.")

    width: Count = Field(64, ge=8, le=4096, multiple_of=8, description="Channels inside the networks.")
    blocks: Count = Field(3, ge=1, le=64, description="Mixing blocks of the propagator.")
    codec_blocks: Count = Field(1, ge=0, le=16, description="Local blocks of the encoder and of the decoder.")
    modes: Count = Field(17, ge=1, le=2049, description="Fourier modes along the tokens, the mean included.")
    normalise: bool = Field(
        False, description="Networks and loss see each channel in units of its standard deviation in the training data."
    )
    shift: bool = Field(
        False,
        description="A linear path over every mode of the tokens, for fields that travel many cells in a step.",
    )
    reencode_every: Count = Field(4, ge=0, le=1000, description="Steps between z <- E(D(z)) in a rollout; 0: never.")


class DenoiserConfig(Section):
    """The residual's distribution, shared by teacher and student."""

    network: OwnCode | None = Field(None, description="A denoiser of your own, as my_net.py:Net; null: ours.")
    options: Options = Field({}, description="Arguments of a denoiser of your own.")

    width: Count = Field(64, ge=8, le=4096, multiple_of=8, description="Channels inside the network.")
    blocks: Count = Field(3, ge=1, le=64, description="Mixing blocks.")
    modes: Count = Field(17, ge=1, le=2049, description="Fourier modes along the tokens.")
    residual: Literal["latent", "field"] = Field(
        "latent",
        description="What is sampled: latent, the error of the prediction; field, also what the codec loses.",
    )
    scale_groups: Count = Field(
        8, ge=1, le=1024, description="Groups of a residual's channels with a whitening scale each; divides them."
    )
    sigma_min: Number = Field(0.02, gt=0, le=1, description="Smallest noise level, in units of the whitened residual.")
    sigma_max: Number = Field(20.0, gt=1, le=1000, description="Largest noise level, in the same unit.")
    rho: Number = Field(7.0, ge=1, le=20, description="Curvature of the noise schedule (Karras et al. 2022, eq. 5).")
    sampler_steps: Count = Field(8, ge=1, le=256, description="Heun steps of the teacher: 2 n - 1 evaluations.")


class PriorConfig(Section):
    """The steady prior's U-Net."""

    network: OwnCode | None = Field(None, description="A network of your own, as my_net.py:Net; null: ours.")
    options: Options = Field({}, description="Arguments of a network of your own.")

    channels: Count = Field(16, ge=8, le=1024, multiple_of=8, description="Channels at full resolution.")
    levels: Count = Field(3, ge=1, le=6, description="Resolutions; each halves the grid.")
    sampler_steps: Count = Field(8, ge=1, le=256, description="Euler steps of a sample.")


class CheckpointConfig(Section):
    """Where checkpoints lie, and how often a stage in progress is saved."""

    dir: Path = Field(Path("checkpoints"), description="Folder of the checkpoints, relative to the run directory.")
    save_every_steps: Count = Field(0, ge=0, le=1_000_000, description="Save after this many steps; 0: by time alone.")
    save_every_s: Number = Field(60.0, gt=0, le=86_400, description="Save after this many seconds.")
    keep_previous: bool = Field(
        True, description="Keep the saved state before the newest, in case that one is damaged; costs its size on disk."
    )


class RuntimeConfig(Section):
    """How the machine is used; shapes no tensor."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one.")
    processes: Literal["auto"] | Processes = Field(
        "auto", description="Processes that train together, at most training.shards; auto: one a GPU, else one."
    )
    threads: Count = Field(
        0, ge=0, le=1024, description="CPU threads of torch; 0: measured at a run's first start, and kept."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Autocast of matrix products; auto: bfloat16 on CUDA, float32 on CPU."
    )
    tf32: bool = Field(
        False, description="On CUDA, let matrix products of float32 round their factors to TF32: faster, other bits."
    )
    compile: bool = Field(False, description="torch.compile the networks (CUDA only).")


class TrainingConfig(Section):
    """How a step of any stage is computed."""

    shards: Count = Field(
        1, ge=1, le=256, description="Parts of a batch, a power of two: so many processes may compute a step, or fewer."
    )


WandbName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class TrackingConfig(Section):
    """Weights & Biases: metrics and checkpoints that outlive the machine. The key is never in a config."""

    mode: Literal["auto", "online", "offline", "disabled"] = Field(
        "auto", description="auto: WANDB_MODE if it is set, else online where there is a W&B key, else disabled."
    )
    entity: WandbName | None = Field(None, description="Team or user; null: WANDB_ENTITY, else the key's default.")
    project: WandbName | None = Field(None, description="Project; null: WANDB_PROJECT, else ups-pipeline.")
    upload_every_s: Number = Field(
        600.0, gt=0, le=86_400, description="Upload the state of a stage in progress after this many seconds."
    )
    keep_versions: Count = Field(
        3, ge=1, le=1000, description="Uploaded sets to keep, besides the last one of each stage."
    )
    connect_timeout_s: Number = Field(30.0, ge=1, le=600, description="Wait this long for W&B before going offline.")
    upload_timeout_s: Number = Field(900.0, ge=1, le=86_400, description="Give up on one upload after this.")
    finish_timeout_s: Number = Field(60.0, ge=1, le=3600, description="Wait this long at the end for the last rows.")


class EvalConfig(Section):
    """One evaluation: which split, how many trajectories, how many ensemble members."""

    split: Literal["val", "test"] = Field("val", description="Validation rows for every choice; test rows once.")
    trajectories: Count = Field(16, ge=1, le=1_000_000, description="Trajectories of the rollout metrics, at most.")
    given_frames: Count = Field(
        1,
        ge=1,
        le=1000,
        description="Known frames of a trajectory: forecasts start from the last one. PDEBench: 10.",
    )
    rollout_steps: Count = Field(40, ge=1, le=10_000, description="Steps from there, at most those in the data.")
    members: Count = Field(16, ge=2, le=1024, description="Members of an ensemble.")
    one_step_pairs: Count = Field(
        384, ge=1, le=1_000_000, description="Pairs (u_t, u_{t+1}) of the one-step ensemble metrics."
    )
    ensemble_trajectories: Count = Field(
        0, ge=0, le=1_000_000, description="Trajectories of ensemble rollouts; 0: none."
    )
    ensemble_members: Count = Field(8, ge=2, le=1024, description="Members of an ensemble rollout.")
    teacher_rollouts: bool = Field(
        True, description="Ensemble rollouts of the diffusion too, which cost many network evaluations a step."
    )
    steady_samples: Count = Field(
        32, ge=1, le=1_000_000, description="Darcy coefficients of the steady prior's metrics, at most."
    )
    peers: tuple[PeerName, ...] = Field(
        (), description="Networks of others, trained on the same data for as long as the operator, to stand beside it."
    )
    solver_trajectories: Count = Field(
        0, ge=0, le=1000, description="Trajectories that the solver computes again, to compare seconds; 0: none."
    )
    student_steps: tuple[StudentSteps, ...] = Field(
        (1, 2, 4), description="Network evaluations of the student to report."
    )
    seed: Count = Field(0, ge=0, lt=2**31, description="Seed of the samples and of the bootstrap.")


class EvaluationsConfig(Section):
    """What the two evaluations of this config have otherwise than small_eval.yaml and full_eval.yaml."""

    settings: ClassVar[type[Section]] = EvalConfig
    """Whose keys the mappings have."""

    small_eval: dict[str, Any] = Field({}, description="Settings of the small evaluation.")
    full_eval: dict[str, Any] = Field({}, description="Settings of the full evaluation.")
    peers: tuple[PeerName, ...] = Field((), description="Peers of the full evaluation.")

    @field_validator("small_eval", "full_eval")
    @classmethod
    def _are_settings(cls, values: dict[str, Any]) -> dict[str, Any]:
        EvalConfig.model_validate(values)
        return values


class PipelineConfig(Section):
    """One training pipeline, from data to steady prior."""

    seed: Count = Field(0, ge=0, lt=2**31, description="Everything random is derived from (seed, stage, step).")
    data: DataConfig = Field(default_factory=DataConfig, description="Trajectories.")
    steady_data: SteadyDataConfig = Field(default_factory=SteadyDataConfig, description="Steady states.")
    latent: LatentConfig = Field(default_factory=LatentConfig, description="The latent state.")
    operator: OperatorConfig = Field(default_factory=OperatorConfig, description="Network of stage operator.")
    denoiser: DenoiserConfig = Field(
        default_factory=DenoiserConfig, description="Network of stages diff_residual and consistency_distill."
    )
    prior: PriorConfig = Field(default_factory=PriorConfig, description="Network of stage steady_prior.")
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="How a step is computed.")
    stages: StagesConfig = Field(default_factory=StagesConfig, description="Training of each stage.")
    evaluations: EvaluationsConfig = Field(default_factory=EvaluationsConfig, description="Sizes of the evaluations.")
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig, description="Saving.")
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig, description="Device, threads and precision.")
    tracking: TrackingConfig = Field(default_factory=TrackingConfig, description="Weights & Biases.")

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Self:
        self._check_grids()
        self._check_groups()
        self._check_shards()
        coarsest = 2 ** (self.prior.levels - 1)
        if self.steady_data.size % coarsest:
            raise ValueError(
                f"steady_data.size={self.steady_data.size} is not divisible by {coarsest}, "
                f"which prior.levels={self.prior.levels} needs"
            )
        if not self.data.files and not self.data.downloads:
            self.check_times((self.data.generate.nt - 1) // self.data.reduced_resolution_t + 1)
        for settings in (self.evaluations.small_eval, self.evaluations.full_eval):
            self.check_evaluation(EvalConfig.model_validate(settings))
        _check_names(self.data.downloads + self.steady_data.downloads)
        _check_rows("data", self.data)
        _check_rows("steady_data", self.steady_data)
        return self

    @property
    def tokens(self) -> tuple[int, ...]:
        """Latent tokens along each axis."""
        return along_axes(self.latent.tokens, self.data.problem)

    def _check_grids(self) -> None:
        problem = self.data.problem
        if fault := fault_of_axes("latent.tokens", self.latent.tokens, problem):
            raise ValueError(fault)
        if any(points % tokens for points, tokens in zip(self.data.grid, self.tokens, strict=True)):
            raise ValueError(
                f"latent.tokens={_listed(self.latent.tokens)} does not divide data.points={_listed(self.data.points)}"
            )
        limit = max(n // 2 + 1 if one else n for n, one in zip(self.tokens, problem.periodic, strict=True))
        for name, net in (("operator", self.operator), ("denoiser", self.denoiser)):
            if net.network is None and net.modes > limit:
                raise ValueError(
                    f"{name}.modes={net.modes} must not exceed {limit}: of latent.tokens={_listed(self.latent.tokens)} "
                    "half and one along a periodic axis, all along another"
                )

    def _check_groups(self) -> None:
        net, values = self.denoiser, f"latent.dim={self.latent.dim}"
        residual = self.latent.dim
        if net.residual == "field":
            points = math.prod(n // m for n, m in zip(self.data.grid, self.tokens, strict=True))
            residual = len(self.data.problem.channels) * points
            values = f"a patch of {residual} numbers"
        if residual % net.scale_groups:
            raise ValueError(
                f"{values} is not divisible by denoiser.scale_groups={net.scale_groups}; change one of them"
            )

    def _check_shards(self) -> None:
        shards = self.training.shards
        if not is_power_of_two(shards):
            raise ValueError(f"training.shards={shards} is no power of two: 1, 2, 4, 8 and so on")
        if self.runtime.processes != "auto" and self.runtime.processes > shards:
            raise ValueError(
                f"runtime.processes={self.runtime.processes} is more than training.shards={shards}: a process computes "
                "whole shards; use fewer processes, or more shards, which are another training"
            )
        for stage in StagesConfig.model_fields:
            settings = self.stages.of(stage)
            for name in BATCH_SIZES:
                size = getattr(settings, name, 0)
                if size % shards:
                    raise ValueError(f"stages.{stage}.{name}={size} is not divisible by training.shards={shards}")

    def check_evaluation(self, settings: EvalConfig) -> None:
        """Raise ValueError for settings that the data, as far as they are known, do not allow."""
        if settings.solver_trajectories and self.data.problem.solver is None:
            raise ValueError(
                f"solver_trajectories={settings.solver_trajectories} needs a solver, and {self.data.problem.name} has "
                "none here; leave it out"
            )
        times = (self.data.generate.nt - 1) // self.data.reduced_resolution_t + 1
        if not self.data.files and not self.data.downloads and times <= settings.given_frames:
            raise ValueError(
                f"given_frames={settings.given_frames} leaves nothing to forecast: the data have {times} times"
            )

    def check_times(self, times: int) -> None:
        """Raise ValueError when trajectories of so many times are too short for the unroll."""
        student = self.stages.consistency_distill
        unrolls = {"operator.unroll": self.stages.operator.unroll}
        if student.tuned_share:
            unrolls["consistency_distill.tuned_unroll"] = student.tuned_unroll
        for name, unroll in unrolls.items():
            if times <= (longest := max(unroll)):
                raise ValueError(
                    f"stages.{name}={longest} steps need more than {longest} times in the data, which has {times}"
                )


def _listed(value: int | tuple[int, ...]) -> int | list[int]:
    return list(value) if isinstance(value, tuple) else value


def _check_names(downloads: tuple[DownloadConfig, ...]) -> None:
    names = [download.name for download in downloads]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two downloads get the name {name}: give one of them another file:")


def _check_rows(section: str, data: DataConfig | SteadyDataConfig) -> None:
    if data.files and data.downloads:
        raise ValueError(f"{section}.files and {section}.downloads are two sources; give one of them")
    held_out = f"{section}.test={data.test} and {section}.val={data.val}"
    if not data.files and not data.downloads and data.generate.n <= data.test + data.val:
        raise ValueError(f"{section}.generate.n={data.generate.n} leaves nothing to train on after {held_out}")
    if data.limit is not None and data.limit <= data.test + data.val:
        raise ValueError(f"{section}.limit={data.limit} leaves nothing to train on after {held_out}")
