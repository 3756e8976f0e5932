"""Samplers of the next field: teacher, student, and the Gaussian that both must beat."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ups_models.config.schema import DenoiserConfig, EvalConfig
from ups_models.evaluation.inputs import Models
from ups_models.evaluation.rollout import SampleFields, in_batches
from ups_models.nn.denoiser import ResidualDiffusion
from ups_models.nn.own import Operator, as_operator
from ups_models.nn.sampling import Draw, karras_sigmas, sample_consistency, sample_edm


@dataclass(frozen=True)
class Sampler:
    """A way to sample the next field, its network evaluations per sample, and the operator that it corrects."""

    sample: Callable[[Draw], SampleFields]
    nfe: int
    operator: Operator


def residual_samplers(net: DenoiserConfig, settings: EvalConfig, models: Models) -> dict[str, Sampler]:
    """Teacher, student and the Gaussian of the teacher's scale, as far as they are trained."""
    samplers: dict[str, Sampler] = {}
    teacher, student, operator = models.diff_residual, models.consistency_distill, models.operator
    if operator is None:
        return samplers
    if teacher is not None:
        sigmas = karras_sigmas(net.sampler_steps, net.sigma_min, net.sigma_max, net.rho)
        samplers["diffusion"] = Sampler(partial(teacher_sampler, teacher, sigmas), 2 * net.sampler_steps - 1, operator)
        samplers["gaussian"] = Sampler(partial(gaussian_sampler, teacher), 0, operator)
    if student is not None:
        corrected = operator if student.operator is None else as_operator(student.operator)
        for count in settings.student_steps:
            sigmas = karras_sigmas(count + 1, net.sigma_min, net.sigma_max, net.rho)[:-1]
            samplers[f"consistency_{count}"] = Sampler(partial(student_sampler, student, sigmas), count, corrected)
    return samplers


def teacher_sampler(teacher: ResidualDiffusion, sigmas: Tensor, draw: Draw) -> SampleFields:
    """Corrected by Heun's sampler on the diffusion."""

    def draw_x0(scale: Tensor, context: Tensor) -> Tensor:
        start = draw(tuple(scale.shape))
        return sample_edm(lambda x, s: in_batches(teacher.denoise, x, s, context), start, sigmas)

    return partial(teacher.corrected, draw=draw_x0)


def student_sampler(student: ResidualDiffusion, sigmas: Tensor, draw: Draw) -> SampleFields:
    """Corrected by the consistency student, one evaluation for each noise level."""

    def draw_x0(scale: Tensor, context: Tensor) -> Tensor:
        start = draw(tuple(scale.shape))
        return sample_consistency(
            lambda x, s: in_batches(student.consistency, x, s, context), start, sigmas, student.sigma_min, draw
        )

    return partial(student.corrected, draw=draw_x0)


def gaussian_sampler(teacher: ResidualDiffusion, draw: Draw) -> SampleFields:
    """Corrected by independent normal residuals of the learned scale: what the diffusion must improve upon."""

    def sample(operator: Operator, u: Tensor, z: Tensor, z_hat: Tensor, mean: Tensor) -> Tensor:
        scale: Tensor = teacher.scale(z, z_hat)
        return teacher.space.corrected(operator, z_hat, scale * draw(tuple(scale.shape)), mean)

    return sample
