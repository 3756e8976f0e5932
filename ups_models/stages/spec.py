"""What is known of a stage without PyTorch: names, files, dependencies, and the fingerprint of its architecture."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from ups_models.config.schema import DenoiserConfig, OperatorConfig, PipelineConfig, PriorConfig
from ups_models.errors import ArchitectureMismatch
from ups_models.own_code import identity_of
from ups_models.stages import fingerprint
from ups_models.wording import shortened

Arch = Mapping[str, int | float | str]
"""Every number that shapes a tensor, or the meaning of its values."""


@dataclass(frozen=True)
class StageSpec:
    """One stage: the DAG, the status file, the resume rule and the reports iterate over SPECS."""

    name: str
    stem: str
    arch: Callable[[PipelineConfig], Arch]
    needs: tuple[str, ...] = ()
    optional: bool = False
    steady: bool = False

    @cached_property
    def checkpoint(self) -> str:
        """File of the averaged weights: what the next stage and every evaluation load."""
        return f"{self.stem}_ema.pt"

    @cached_property
    def files(self) -> tuple[str, str]:
        """Names of the stage's files: the raw weights and their average."""
        return f"{self.stem}.pt", self.checkpoint

    def config_hash(self, cfg: PipelineConfig) -> str:
        """Identifies everything in the config that the trained weights depend on."""
        return fingerprint.config_hash(self, cfg)

    def is_config_hash(self, saved: str | None, cfg: PipelineConfig) -> bool:
        """Whether the stage was trained under this config; a record that says nothing may have been."""
        return saved is None or fingerprint.is_config_hash(saved, self, cfg)

    def data_recipe(self, cfg: PipelineConfig) -> str:
        """Identifies which rows of which data train and which are held out."""
        return fingerprint.data_recipe(self, cfg)

    def is_data_recipe(self, saved: str, cfg: PipelineConfig) -> bool:
        """Whether the stage was trained on these rows of these data."""
        return fingerprint.is_data_recipe(saved, self, cfg)


def _size(value: int | tuple[int, ...]) -> int | str:
    return value if isinstance(value, int) else " x ".join(map(str, value))


def _own(net: OperatorConfig | DenoiserConfig | PriorConfig) -> dict[str, str]:
    """What identifies a network of the user's; nothing for ours."""
    if net.network is None:
        return {}
    return {"network": identity_of(net.network), "options": json.dumps(net.options, sort_keys=True)}


def _operator_arch(cfg: PipelineConfig) -> Arch:
    net = cfg.operator
    return {
        "latent_dim": cfg.latent.dim,
        "latent_tokens": _size(cfg.latent.tokens),
        "points": _size(cfg.data.points),
        "family": identity_of(cfg.data.family),
        "width": net.width,
        "blocks": net.blocks,
        "codec_blocks": net.codec_blocks,
        "modes": net.modes,
        "reencode_every": net.reencode_every,
        **{name: 1 for name in ("normalise", "shift") if getattr(net, name)},
    } | _own(net)


def _diffusion_arch(cfg: PipelineConfig) -> Arch:
    net = cfg.denoiser
    return {
        "latent_dim": cfg.latent.dim,
        "latent_tokens": _size(cfg.latent.tokens),
        "width": net.width,
        "blocks": net.blocks,
        "modes": net.modes,
        "scale_groups": net.scale_groups,
        "sigma_min": net.sigma_min,
        "sigma_max": net.sigma_max,
        "rho": net.rho,
        **({"residual": net.residual} if net.residual != "latent" else {}),
    } | _own(net)


def _student_arch(cfg: PipelineConfig) -> Arch:
    """The teacher's, and of an operator that is tuned with it."""
    if not cfg.stages.consistency_distill.tunes_operator:
        return _diffusion_arch(cfg)
    return {**_diffusion_arch(cfg), **{f"operator.{name}": value for name, value in _operator_arch(cfg).items()}}


def _prior_arch(cfg: PipelineConfig) -> Arch:
    net, how = cfg.prior, {"objective": "crps"} if cfg.stages.steady_prior.objective == "crps" else {}  # to sample it
    return {"size": cfg.steady_data.size, "channels": net.channels, "levels": net.levels} | how | _own(net)


SPECS: dict[str, StageSpec] = {
    spec.name: spec
    for spec in (
        StageSpec("operator", "operator", _operator_arch),
        # the stem is historical, kept so that old runs load
        StageSpec("diff_residual", "diffusion_residual", _diffusion_arch, needs=("operator",)),
        StageSpec(
            "consistency_distill",
            "consistency_distill",
            _student_arch,
            needs=("operator", "diff_residual"),
        ),
        StageSpec("steady_prior", "steady_prior", _prior_arch, optional=True, steady=True),
    )
}


def dependants(stage: str) -> tuple[str, ...]:
    """A stage, and every stage that needs it or one of these, in order."""
    found = [stage]
    for name, spec in SPECS.items():
        if not set(found).isdisjoint(spec.needs):
            found.append(name)
    return tuple(found)


def check_architecture(where: object, saved: Arch, wanted: Arch) -> None:
    """Raise ArchitectureMismatch, naming the first value in which two fingerprints differ."""
    for name in [*wanted, *(name for name in saved if name not in wanted)]:
        if saved.get(name) != wanted.get(name):
            raise ArchitectureMismatch(
                f"Architecture mismatch: {shortened(name)}={shortened(saved.get(name))} vs "
                f"{shortened(name)}={wanted.get(name)} ({where} was trained "
                "with the first, the config asks for the second); use the config it was trained with, or another "
                "--run-dir, or --force-train to train again"
            )
