"""The residual in its two spaces, and the linear path that can move a field."""

import math

import pytest
import torch
from pydantic import ValidationError

from ups_models.config.schema import PipelineConfig
from ups_models.nn.blocks import TokenGrid
from ups_models.nn.codec import FieldGrid, means_of
from ups_models.nn.denoiser import ResidualDiffusion, context_width
from ups_models.nn.operator import LatentOperator, Shift
from ups_models.nn.residual import FieldResidual, LatentResidual

GRID = FieldGrid(2, (8, 12), TokenGrid((4, 4), (True, False)))
DIM, B = 3, 5


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=[False, True], ids=["as they are", "in units"])
def lossy(request):
    """An operator whose latent state has a quarter of a field's numbers; the mean of its first channel is conserved."""
    torch.manual_seed(0)
    net = LatentOperator(
        grid=GRID,
        parameters=1,
        conserved=(True, False),
        dim=DIM,
        width=8,
        blocks=1,
        modes=2,
        codec_blocks=0,
        normalise=request.param,
    )
    if net.units is not None:
        net.units.fit(5 * torch.randn(20, 3, 2, *GRID.points, generator=rng(1)))
    return net


@pytest.fixture
def step(lossy):
    """u_t, u_{t+1} and the latent prediction z_hat."""
    now, change = (torch.randn(B, 2, *GRID.points, generator=rng(seed)) for seed in (2, 3))
    kept = means_of(change)[..., None, None] * torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    with torch.no_grad():
        z_hat = lossy.advance(lossy.encode(now), torch.zeros(B, 2))
    return now, now + change - kept, z_hat


def test_a_field_residual_makes_good_all_that_is_wrong(lossy, step):
    now, target, z_hat = step
    space = FieldResidual(GRID, (True, False))

    with torch.no_grad():
        residual = space.residual(lossy, z_hat, target, means_of(now))
        found = space.corrected(lossy, z_hat, residual, means_of(now))

    assert residual.shape == (B, 16, space.dim) == (B, 16, 12)
    assert torch.allclose(found, target, atol=1e-4)


def test_a_latent_residual_leaves_what_the_codec_loses(lossy, step):
    now, target, z_hat = step
    space = LatentResidual(DIM)

    with torch.no_grad():
        residual = space.residual(lossy, z_hat, target, means_of(now))
        found = space.corrected(lossy, z_hat, residual, means_of(now))

    assert residual.shape == (B, 16, DIM)
    assert (found - target).abs().mean() > 0.1


def test_a_sampled_field_residual_keeps_the_means_that_are_conserved(lossy, step):
    now, _, z_hat = step
    residual = torch.randn(B, 16, 12, generator=rng(4))

    with torch.no_grad():
        found = FieldResidual(GRID, (True, False)).corrected(lossy, z_hat, residual, means_of(now))

    assert torch.allclose(means_of(found)[:, 0], means_of(now)[:, 0], atol=1e-5)
    assert (means_of(found)[:, 1] - means_of(now)[:, 1]).abs().mean() > 1e-3


def test_what_the_state_does_not_hold_of_a_field_is_known_beside_it(lossy, step):
    now, _, _ = step
    space, z, mean = FieldResidual(GRID, (True, False)), lossy.encode(now), means_of(now)

    with torch.no_grad():
        lost = space.lost(lossy, now, z, mean)
        again = space.corrected(lossy, z, lost, mean)

    assert torch.allclose(again, now, atol=1e-4)
    assert LatentResidual(DIM).lost(lossy, now, z, mean).shape == (B, 16, 0)


def test_a_denoiser_of_field_residuals_has_a_scale_for_each_group_of_their_numbers(lossy, step):
    now, _, z_hat = step
    space = FieldResidual(GRID, (True, False))
    net = ResidualDiffusion(
        grid=GRID.tokens, dim=DIM, width=8, blocks=1, modes=2, scale_groups=4, sigma_min=0.02, space=space
    )
    z = lossy.encode(now)

    context = net.context(z, z_hat, space.lost(lossy, now, z, means_of(now)))

    assert net.scale(z, z_hat).shape == (B, 16, 12)
    assert context.shape == (B, 16, context_width(DIM, space)) == (B, 16, 2 * DIM + 24)
    x = torch.randn(B, 16, 12, generator=rng(5))
    assert net.denoise(x, torch.full((B,), 0.5), context).shape == x.shape


@pytest.mark.parametrize("tokens", [8, 9])
def test_the_linear_path_can_move_a_field_by_any_number_of_tokens(tokens):
    torch.manual_seed(0)
    path, z, cond = Shift(TokenGrid((tokens,), (True,)), 2, 4), torch.randn(3, tokens, 2), torch.zeros(3, 4)
    assert path(z, cond).abs().max() == 0
    phase = torch.arange(tokens // 2 + 1) * -2 * math.pi * 3 / tokens

    with torch.no_grad():
        real, imaginary = next(path.linear.parameters())
        for channel in range(2):
            real[:, channel, channel], imaginary[:, channel, channel] = phase.cos() - 1, phase.sin()

    assert torch.allclose(z + path(z, cond), z.roll(3, 1), atol=1e-5)


def test_the_groups_must_divide_what_is_sampled():
    settings = {"latent": {"dim": 4, "tokens": 32}, "denoiser": {"residual": "field", "scale_groups": 3}}

    with pytest.raises(ValidationError, match=r"a patch of 8 numbers is not divisible by denoiser.scale_groups=3"):
        PipelineConfig.model_validate(settings)
