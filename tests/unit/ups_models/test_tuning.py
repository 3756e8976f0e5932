"""The last part of consistency_distill: rollouts of the student, and of its own operator, tuned by their CRPS."""

import pytest
import torch
from pydantic import ValidationError

from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.data.fields import Fields
from ups_models.evaluation.inputs import Models
from ups_models.evaluation.metrics import fair_crps
from ups_models.evaluation.samplers import residual_samplers
from ups_models.nn.denoiser import ResidualDiffusion
from ups_models.nn.operator import LatentOperator
from ups_models.problems.registry import BURGERS
from ups_models.stages import consistency_distill, diff_residual, operator
from ups_models.stages.consistency_distill import forecast_loss, start_from_teacher
from ups_models.stages.crps import almost_fair_crps
from ups_models.stages.spec import SPECS
from ups_models.stages.stage import LossInput, expect

STAGE = consistency_distill.STAGE


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def tuned(smoke, **settings):
    """The smoke config with a student that is tuned."""
    asked = {"tuned_share": 0.5, "tuned_unroll": [1, 2], "tune_operator": True} | settings
    values = smoke.model_dump(mode="json")
    values["stages"]["consistency_distill"] |= asked
    return PipelineConfig.model_validate(values)


def networks(cfg):
    torch.manual_seed(0)
    return {"operator": operator.build(cfg), "diff_residual": diff_residual.build(cfg)}


def student_of(cfg, frozen):
    torch.manual_seed(5)
    net = consistency_distill.build(cfg)
    start_from_teacher(cfg, net, frozen)
    return net


def batch_of(cfg, steps=2, n=4):
    u = torch.randn(n, steps + 1, 1, *cfg.data.grid, generator=rng(3))
    return {"u": u, "parameters": torch.tensor([[-2.0, -3.0]]).expand(n, 2)}


def loss_of(cfg, net, frozen, batch):
    return forecast_loss(LossInput(net, net, frozen, batch, 0.9, rng(1)), members=2, sigma_max=20.0, alpha=1.0)


@pytest.mark.parametrize("members", [2, 5])
def test_the_crps_is_fair_for_an_alpha_of_one_and_that_of_the_members_for_zero(members):
    x, y = torch.randn(members, 7, 3, generator=rng()), torch.randn(7, 3, generator=rng(1))
    own = (x - y).abs().mean(0) - (x[:, None] - x[None]).abs().mean((0, 1)) / 2

    assert torch.allclose(almost_fair_crps(x, y, 1.0), fair_crps(x, y), atol=1e-6)
    assert torch.allclose(almost_fair_crps(x, y, 0.0), own, atol=1e-6)


def test_exact_members_have_no_loss(smoke):
    class Perfect(ResidualDiffusion):
        def consistency(self, x, sigma, context):
            return torch.zeros_like(x)

    cfg = tuned(smoke)
    frozen = networks(cfg)
    net = student_of(cfg, frozen)
    net.__class__ = Perfect
    u0 = torch.randn(4, 1, *cfg.data.grid, generator=rng(3))
    own = expect(net.operator, LatentOperator)
    parameters, fields = torch.tensor([[-2.0, -3.0]]).expand(4, 2), [u0]
    for _ in range(2):
        fields.append(own.decode(own.advance(own.encode(fields[-1]), parameters), u0.flatten(2).mean(-1)))
    batch = {"u": torch.stack(fields, 1).detach(), "parameters": parameters}

    assert loss_of(cfg, net, frozen, batch).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("with_operator", [True, False])
def test_the_student_learns_and_what_is_frozen_does_not(smoke, with_operator):
    cfg = tuned(smoke, tune_operator=with_operator)
    frozen = {name: net.requires_grad_(False) for name, net in networks(cfg).items()}
    net = student_of(cfg, frozen)

    loss_of(cfg, net, frozen, batch_of(cfg)).backward()

    moved = {name.split(".")[0] for name, one in net.named_parameters() if one.grad is not None and one.grad.any()}
    assert moved == {"scale", "denoiser", "operator"} - (set() if with_operator else {"operator"})
    assert all(one.grad is None for other in frozen.values() for one in other.parameters())


def test_a_student_that_is_distilled_first_starts_as_its_teacher_and_another_with_its_scale_alone(smoke):
    cfg = tuned(smoke)
    frozen = networks(cfg)
    teacher, distilled = frozen["diff_residual"], student_of(cfg, frozen)
    anew = student_of(tuned(smoke, tuned_share=1.0), frozen)

    assert all(torch.equal(distilled.get_parameter(name), value) for name, value in teacher.named_parameters())
    assert all(torch.equal(anew.scale.get_parameter(name), one) for name, one in teacher.scale.named_parameters())
    assert not torch.equal(anew.denoiser.lift.linear.weight, teacher.denoiser.lift.linear.weight)
    own = expect(anew.operator, LatentOperator)
    assert all(torch.equal(own.get_parameter(name), one) for name, one in frozen["operator"].named_parameters())


def test_windows_grow_once_the_tuning_has_begun(smoke):
    cfg = tuned(smoke, batch_size=8, min_batch_size=2, tuned_unroll=[1, 3])
    u = torch.randn(6, 9, 1, *cfg.data.grid, generator=rng())
    x = torch.arange(cfg.data.grid[0]) / cfg.data.grid[0]
    data = Fields(BURGERS, u, (x,), torch.arange(9) * 0.1, torch.full((6, 1), 0.1), torch.arange(6))

    shapes = [tuple(STAGE.sample_batch(cfg, data, done, rng())["u"].shape[:2]) for done in (0.0, 0.49, 0.5, 0.8)]

    assert shapes == [(8, 2), (8, 2), (8, 2), (2, 4)]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_whole_training_may_be_one_or_the_other(smoke, share):
    cfg = tuned(smoke, tuned_share=share)
    frozen = networks(cfg)
    net = student_of(cfg, frozen)
    loss = STAGE.loss(cfg)

    found = loss(LossInput(net, net, frozen, batch_of(cfg, steps=1), 0.0, rng(1)))

    expected = loss_of(cfg, net, frozen, batch_of(cfg, steps=1))
    assert (found.item() == expected.item()) == (share == 1.0)


def test_an_operator_of_the_students_own_is_part_of_its_architecture_and_corrects_its_samples(smoke):
    cfg = tuned(smoke)
    frozen = networks(cfg)
    student = student_of(cfg, frozen)
    models = Models.of({**frozen, "consistency_distill": student})

    samplers = residual_samplers(cfg.denoiser, EvalConfig(), models)

    assert SPECS["consistency_distill"].arch(cfg)["operator.width"] == cfg.operator.width
    assert SPECS["consistency_distill"].arch(smoke) == SPECS["diff_residual"].arch(smoke)
    assert samplers["diffusion"].operator is models.operator
    assert samplers["consistency_1"].operator is student.operator


def test_an_unroll_that_is_longer_than_the_data_is_refused(smoke):
    with pytest.raises(ValidationError, match=r"stages.consistency_distill.tuned_unroll=500 steps need more than 500"):
        tuned(smoke, tuned_unroll=[1, 500])

    assert tuned(smoke, tuned_unroll=[1, 500], tuned_share=0.0).stages.consistency_distill.tuned_share == 0
