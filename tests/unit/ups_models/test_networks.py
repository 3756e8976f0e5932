"""Networks and samplers: symmetries, conserved quantities and closed forms."""

import math

import pytest
import torch

from ups_models.evaluation.rollout import rollout
from ups_models.nn.blocks import real_dft
from ups_models.nn.prior import SteadyPrior
from ups_models.nn.sampling import karras_sigmas, sample_consistency, sample_edm, sample_flow
from ups_models.stages import diff_residual, steady_prior
from ups_models.stages.registry import STAGES
from ups_models.stages.stage import expect
from ups_models.training.seeds import derive_seed


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def fields(n=5, points=64):
    return torch.randn(n, 1, points, generator=rng(3))


PARAMETERS = torch.tensor([[math.log(0.01), math.log(0.05)]]).expand(5, 2)


@pytest.mark.parametrize(("tokens", "modes"), [(8, 5), (8, 3), (9, 5), (32, 17)])
def test_the_dense_transform_is_the_fft(tokens, modes):
    x = torch.randn(2, tokens, 3, generator=rng())
    forward, inverse = real_dft(tokens, modes)

    coefficients = (forward @ x).unflatten(1, (modes, 2))
    expected = torch.fft.rfft(x, dim=1, norm="ortho")[:, :modes]
    back = torch.fft.irfft(
        torch.cat([expected, torch.zeros(2, tokens // 2 + 1 - modes, 3)], 1), n=tokens, dim=1, norm="ortho"
    )

    assert torch.allclose(coefficients[:, :, 0], expected.real, atol=1e-6)
    assert torch.allclose(coefficients[:, :, 1], expected.imag, atol=1e-6)
    assert torch.allclose(inverse @ (forward @ x), back, atol=1e-6)


def test_a_rollout_conserves_the_mean_exactly(operator):
    u0 = fields() + torch.arange(5)[:, None, None]

    predicted = rollout(operator, u0, PARAMETERS, steps=6, reencode_every=2)

    assert torch.allclose(predicted.mean(-1), u0.mean(-1)[:, None].expand(5, 6, 1), atol=1e-5)


def test_the_operator_commutes_with_shifts_by_whole_tokens(operator):
    u0, patch = fields(), 64 // 8

    shifted = rollout(operator, u0.roll(3 * patch, -1), PARAMETERS, steps=3, reencode_every=2)

    assert torch.allclose(
        shifted, rollout(operator, u0, PARAMETERS, steps=3, reencode_every=2).roll(3 * patch, -1), atol=1e-4
    )


def test_the_operator_depends_on_its_parameters(smoke, operator):
    state = operator.state_dict()
    generator = rng(5)
    for name, value in state.items():
        if "affine" in name:
            value.copy_(torch.randn(value.shape, generator=generator))
    z = operator.encode(fields())

    slow, fast = (operator.advance(z, PARAMETERS + shift) for shift in (0.0, 1.0))

    assert not torch.allclose(slow, fast)


def test_reencoding_is_what_the_rollout_says_it_is(operator):
    u0 = fields()

    never = rollout(operator, u0, PARAMETERS, steps=2, reencode_every=0)
    every = rollout(operator, u0, PARAMETERS, steps=2, reencode_every=1)
    by_hand = operator.decode(operator.advance(operator.encode(never[:, 0]), PARAMETERS), u0.mean(-1))

    assert torch.allclose(every[:, 1], by_hand, atol=1e-6)
    assert not torch.allclose(never[:, 1], every[:, 1])


def test_a_consistency_function_is_the_identity_at_the_smallest_noise(diffusion, smoke):
    x = torch.randn(3, 8, 4, generator=rng())
    context = torch.randn(3, 8, 12, generator=rng(1))
    smallest = torch.full((3,), smoke.denoiser.sigma_min)

    assert torch.equal(diffusion.consistency(x, smallest, context), x)
    assert not torch.allclose(diffusion.consistency(x, 10 * smallest, context), x)


def test_the_denoiser_without_a_network_is_the_wiener_filter(smoke):
    net = diff_residual.build(smoke)
    x = torch.randn(3, 8, 4, generator=rng())
    sigma = torch.tensor([0.1, 1.0, 5.0])

    denoised = net.denoise(x, sigma, torch.zeros(3, 8, 12))

    assert torch.allclose(denoised, x / (1 + sigma[:, None, None] ** 2))


def gaussian_denoiser(std):
    return lambda x, sigma: x * std**2 / (std**2 + sigma.view(-1, *(1,) * (x.dim() - 1)) ** 2)


def test_the_edm_sampler_converges_to_a_gaussian_at_second_order():
    start = torch.randn(20000, 1, generator=rng())
    exact = start * 80 / math.sqrt(0.5**2 + 80**2) * 0.5  # the probability-flow ODE of a Gaussian, solved

    errors = [
        (sample_edm(gaussian_denoiser(0.5), start, karras_sigmas(steps, 0.002, 80, 7)) - exact).abs().max().item()
        for steps in (25, 49, 97)
    ]

    assert errors[-1] < 0.01
    assert errors[0] / errors[1] > 3
    assert errors[1] / errors[2] > 3


def test_the_edm_sampler_uses_two_evaluations_a_step_but_the_last():
    calls = []

    def denoise(x, sigma):
        calls.append(sigma[0].item())
        return x * 0

    sample_edm(denoise, torch.zeros(1, 1), karras_sigmas(8, 0.02, 20, 7))

    assert len(calls) == 15


@pytest.mark.parametrize("evaluations", [1, 2, 4])
def test_a_consistency_sampler_uses_one_evaluation_for_each_level(evaluations):
    calls = []

    def consistency(x, sigma):
        calls.append(sigma[0].item())
        return x * 0

    sample_consistency(consistency, torch.zeros(1, 1), karras_sigmas(evaluations, 0.02, 20, 7), 0.02, torch.zeros)

    assert len(calls) == evaluations


def test_the_flow_sampler_follows_a_straight_flow_exactly():
    target, start = torch.full((3, 2, 2), 7.0), torch.randn(3, 2, 2, generator=rng())

    assert torch.allclose(sample_flow(lambda x, t: target - start, start, 4), target, atol=1e-5)


def test_karras_levels_fall_from_the_largest_to_the_smallest():
    sigmas = karras_sigmas(12, 0.02, 20, 7)

    assert sigmas[0].item() == pytest.approx(20)
    assert sigmas[-1].item() == pytest.approx(0.02)
    assert bool((sigmas.diff() < 0).all())


def test_the_prior_sees_the_coefficient_only_when_it_may(smoke):
    torch.manual_seed(0)
    net = steady_prior.build(smoke)
    torch.nn.init.normal_(expect(net, SteadyPrior).project.weight)
    x, t = torch.randn(2, 16, 16, generator=rng()), torch.full((2,), 0.5)
    a, b = torch.full((2, 16, 16), 0.1), torch.ones(2, 16, 16)
    shown, hidden = torch.ones(2), torch.zeros(2)

    assert torch.equal(net(x, t, a, hidden), net(x, t, b, hidden))
    assert not torch.allclose(net(x, t, a, shown), net(x, t, b, shown))


def test_seeds_derived_from_different_parts_differ():
    seeds = {
        derive_seed(0, name, purpose, step) for name in STAGES for purpose in ("batch", "noise") for step in range(50)
    }

    assert len(seeds) == len(STAGES) * 2 * 50
    assert derive_seed(0, "operator", "batch", 1) == derive_seed(0, "operator", "batch", 1)
