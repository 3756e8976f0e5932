"""The losses: zero where they must be, and gradients where they may go."""

import math

import pytest
import torch

from ups_models.nn.denoiser import ResidualDiffusion
from ups_models.nn.operator import LatentOperator
from ups_models.stages import diff_residual
from ups_models.stages.consistency_distill import distillation_loss
from ups_models.stages.diff_residual import whitened_residual
from ups_models.stages.operator import operator_loss
from ups_models.stages.stage import LossInput


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def fields(n=5, points=64):
    return torch.randn(n, 1, points, generator=rng(3))


PARAMETERS = torch.tensor([[math.log(0.01), math.log(0.05)]]).expand(5, 2)


def test_a_perfect_operator_has_no_prediction_error_in_its_loss(operator):
    u = torch.stack([fields()] * 3, 1)

    class Identity(LatentOperator):
        def encode(self, u):
            return u.flatten(1).unflatten(-1, (8, 8))

        def advance(self, z, parameters):
            return z

        def decode(self, z, mean):
            return z.flatten(-2)[:, None]

    operator.__class__ = Identity
    step = LossInput(operator, operator, {}, {"u": u, "parameters": PARAMETERS}, 0.0, rng())

    loss = operator_loss(step, reencode_every=1, reconstruction=0.5, consistency=0.1)

    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_distillation_is_zero_for_a_student_that_is_consistent(smoke, operator, diffusion):
    class Perfect(ResidualDiffusion):
        def consistency(self, x, sigma, context):
            return torch.zeros_like(x)

    diffusion.__class__ = Perfect
    batch = {"u": torch.stack([fields()] * 2, 1), "parameters": PARAMETERS}
    frozen = {"operator": operator, "diff_residual": diffusion}

    loss = distillation_loss(LossInput(diffusion, diffusion, frozen, batch, 0.5, rng()), grid=12, sigma_max=20, rho=7)

    assert loss.item() == pytest.approx(0, abs=1e-9)


def test_the_residual_is_the_same_inside_a_bfloat16_autocast(operator, diffusion):
    u = fields()
    batch = {"u": torch.stack([u, 1.001 * u], 1), "parameters": PARAMETERS}

    plain = whitened_residual(operator, diffusion, batch)[2]
    with torch.autocast("cpu", torch.bfloat16):
        known, scale, x0 = whitened_residual(operator, diffusion, batch)

    assert torch.allclose((x0 * scale).float(), plain * diffusion.scale(known.z, known.z_hat), rtol=0.05, atol=1e-6)


def test_only_the_student_learns_from_distillation(smoke, operator, diffusion):
    torch.manual_seed(2)
    student, target = diff_residual.build(smoke), diff_residual.build(smoke)
    batch = {"u": torch.stack([fields(), fields().roll(1, -1)], 1), "parameters": PARAMETERS}
    frozen = {"operator": operator, "diff_residual": diffusion}

    distillation_loss(LossInput(student, target, frozen, batch, 0.5, rng()), grid=12, sigma_max=20, rho=7).backward()

    assert any(parameter.grad is not None for parameter in student.denoiser.parameters())
    assert all(parameter.grad is None for net in (operator, diffusion, target) for parameter in net.parameters())
