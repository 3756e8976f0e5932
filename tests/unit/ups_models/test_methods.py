"""The methods are the real ones: each test fails for a degenerate stage that a pipeline could still call trained."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.data.fields import Fields, SteadyFields
from ups_models.errors import BadInput
from ups_models.evaluation.evaluate import evaluate
from ups_models.evaluation.forecasts import sample_steady
from ups_models.evaluation.inputs import EvalData, Models
from ups_models.evaluation.rollout import one_step_members, rollout
from ups_models.evaluation.samplers import residual_samplers
from ups_models.nn.sampling import noise
from ups_models.problems import burgers1d, darcy2d
from ups_models.problems.initial import random_waves
from ups_models.problems.registry import BURGERS
from ups_models.stages.diff_residual import whitened_residual
from ups_models.stages.lineage import Lineage
from ups_models.stages.registry import STAGES
from ups_models.training.loop import Hooks, fit
from ups_models.training.parallel import World

CPU = torch.device("cpu")


def config():
    return PipelineConfig.model_validate(
        {
            "data": {"points": 64, "test": 8, "val": 8, "generate": {"n": 64, "parameters": [0.1]}},
            "steady_data": {"size": 16, "test": 8, "val": 8, "generate": {"n": 200}},
            "latent": {"dim": 8, "tokens": 8},
            "operator": {"width": 32, "blocks": 2, "codec_blocks": 1, "modes": 5},
            "denoiser": {"width": 32, "blocks": 2, "modes": 5},
            "prior": {"channels": 16, "levels": 2},
            "stages": {
                "operator": {"epochs": 3, "steps_per_epoch": 50, "batch_size": 32, "lr": 3e-3, "unroll": [1, 2, 4]},
                "diff_residual": {"epochs": 3, "steps_per_epoch": 60, "batch_size": 64, "lr": 2e-3},
                "consistency_distill": {"epochs": 2, "steps_per_epoch": 60, "batch_size": 64, "lr": 1e-3},
                "steady_prior": {"epochs": 2, "steps_per_epoch": 60, "batch_size": 16},
            },
        }
    )


def trajectories(n, seed):
    import numpy as np

    times = [0.025 * step for step in range(21)]
    u = burgers1d.solve(random_waves(n, 256, np.random.default_rng(seed), offset=2.0), 0.1, times)[..., ::4].float()
    x = (torch.arange(64) + 0.5) / 64
    return Fields(BURGERS, u[:, :, None], (x,), torch.tensor(times), torch.full((n, 1), 0.1), torch.arange(n))


def steady(n, seed):
    import numpy as np

    a = darcy2d.random_coefficients(n, 16, np.random.default_rng(seed))
    return SteadyFields(a.float(), darcy2d.solve(a, 1.0).float(), torch.ones(n), torch.arange(n))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All four stages, small but trained in earnest, and data that they have not seen."""
    torch.set_num_threads(1)
    cfg = config()
    nets: dict[str, Any] = {}
    train, fields = trajectories(96, 0), steady(200, 0)
    directory = tmp_path_factory.mktemp("resume")
    for name, stage in STAGES.items():
        nets[name] = fit(
            stage,
            cfg,
            fields if stage.spec.steady else train,
            nets,
            device=CPU,
            resume_path=directory / f"{name}.pt",
            lineage=Lineage.of(stage.spec, cfg, {}),
            hooks=Hooks(),
            world=World(),
        ).ema
    models = Models(*(nets[name] for name in STAGES))
    data = EvalData(trajectories(24, 1), steady(32, 1), fields)
    return cfg, models, data


@pytest.fixture(scope="module")
def result(trained):
    cfg, models, data = trained
    settings = EvalConfig(trajectories=24, rollout_steps=20, members=16, one_step_pairs=256, student_steps=(1, 2, 4))
    return evaluate(cfg, settings, models, data, device=CPU)[0]


def members(trained, sampler, seed=0):
    cfg, models, data = trained
    samplers = residual_samplers(cfg.denoiser, EvalConfig(), models)
    u = data.trajectories.u[:, 5]
    parameters = torch.tensor([[0.1, 0.025]]).log().expand(len(u), 2)
    with torch.no_grad():
        sample = samplers[sampler].sample(partial(noise, rng=torch.Generator().manual_seed(seed)))
        return one_step_members(models.operator, sample, u, parameters, members=16)


def student_and_teacher(result):
    samplers = result.probabilistic.samplers
    return samplers["consistency_2"].scores, samplers["diffusion"].scores


def test_the_operator_beats_every_trivial_prediction_in_field_space(result):
    one_step, summary = result.one_step, result.rollout.summary

    for trivial in ("persistence", "constant_mean", "zero"):
        assert one_step["operator"]["nrmse"] < 0.5 * one_step[trivial]["nrmse"]
        assert summary["operator"].mean < 0.5 * summary[trivial].mean


def test_the_latent_space_has_not_collapsed(trained):
    _, models, data = trained

    z = models.operator.encode(data.trajectories.u[:, 0])

    assert z.std(0).mean() > 0.05


def test_the_decoder_inverts_the_encoder(trained):
    _, models, data = trained
    u = data.trajectories.u[:, 0]

    decoded = models.operator.decode(models.operator.encode(u), u.mean(-1))

    assert ((decoded - u).norm(dim=-1) / u.norm(dim=-1)).mean() < 0.1


def test_the_diffusion_says_more_than_the_operator_alone(result):
    ensembles = result.probabilistic

    assert ensembles.samplers["diffusion"].scores["crps"] < ensembles.operator["mae"]


@pytest.mark.parametrize("sampler", ["diffusion", "consistency_1", "consistency_2", "gaussian"])
def test_another_seed_gives_other_samples_and_the_same_seed_the_same(trained, sampler):
    one, same, other = (members(trained, sampler, seed) for seed in (0, 0, 1))

    assert torch.equal(one, same)
    assert (one - other).abs().mean() > 0.1 * one.std(0).mean()


def test_members_differ_from_each_other(trained):
    spread = members(trained, "diffusion").std(0).mean()

    assert spread > 0


def test_the_student_keeps_at_least_half_of_the_teachers_spread(result):
    student, teacher = student_and_teacher(result)

    assert student["sample_std"] >= 0.5 * teacher["sample_std"]


def test_the_student_is_close_to_its_teacher_with_far_fewer_evaluations(result):
    student, teacher = student_and_teacher(result)

    assert student["crps"] <= 1.3 * teacher["crps"]
    assert 5 * student["nfe"] <= teacher["nfe"]


def test_zeroing_the_diffusion_changes_the_result(trained):
    _cfg, models, data = trained
    sampled = members(trained, "diffusion")
    u = data.trajectories.u[:, 5]
    parameters = torch.tensor([[0.1, 0.025]]).log().expand(len(u), 2)

    plain = rollout(models.operator, u, parameters, steps=1, reencode_every=0)[:, 0]

    assert (sampled - plain).abs().mean() > 0.1 * sampled.std(0).mean()
    zeroed = one_step_members(
        models.operator, lambda operator, u, z, z_hat, mean: operator.decode(z_hat, mean), u, parameters, members=2
    )
    assert torch.allclose(zeroed[0], plain, atol=1e-5)


def test_the_whitened_residual_has_unit_scale_on_unseen_data(trained):
    _, models, data = trained
    u = data.trajectories.u
    batch = {
        "u": torch.stack([u[:, :-1].flatten(0, 1), u[:, 1:].flatten(0, 1)], 1),
        "parameters": torch.tensor([[0.1, 0.025]]).log().expand(24 * 20, 2),
    }

    with torch.no_grad():
        x0 = whitened_residual(models.operator, models.diff_residual, batch)[2]

    assert 0.7 < x0.std().item() < 1.5


def test_the_steady_prior_depends_on_the_coefficient_and_beats_the_mean_field(trained, result):
    _cfg, models, data = trained
    prior, guesses = result.darcy.steady_prior.scores, result.darcy.guesses
    draw = partial(noise, rng=torch.Generator().manual_seed(0))

    with torch.no_grad():
        samples = sample_steady(models.steady_prior, data.steady, members=2, steps=4, draw=draw)

    assert prior["member_nrmse"] < guesses["mean_field"]["nrmse"]
    assert prior["crps"] < prior["mae_of_mean"]
    assert not torch.allclose(samples[0], samples[1])


def test_every_metric_stands_beside_the_trivial_baselines(result):
    trivial = {"operator", "persistence", "constant_mean", "zero"}

    assert set(result.one_step) == trivial
    assert set(result.rollout.summary) == trivial
    assert set(result.rollout.pdebench) == trivial
    samplers = {"gaussian", "diffusion", "consistency_1", "consistency_2", "consistency_4"}
    assert set(result.probabilistic.samplers) == samplers
    assert result.probabilistic.operator
    assert set(result.darcy.guesses) == {"mean_field", "inverse_coefficient"}
    assert result.rollout.pdebench["zero"]["nrmse"] == pytest.approx(1, abs=1e-6)


def untimed(result):
    return result.model_copy(update={"network": result.network.model_copy(update={"seconds": 0.0})})


def test_frames_that_are_given_are_where_forecasts_start_and_are_not_scored(trained):
    cfg, models, data = trained
    settings = EvalConfig(trajectories=4, given_frames=10, members=2, one_step_pairs=8, student_steps=(1,))
    later, whole = (
        replace(data, trajectories=data.trajectories.after(9)),
        settings.model_copy(update={"given_frames": 1}),
    )

    found = evaluate(cfg, settings, models, data, device=CPU)[0]
    other = evaluate(cfg, whole, models, later, device=CPU)[0]

    assert (found.steps, found.given_frames, found.data and found.data.nt) == (11, 10, 21)
    assert untimed(found.model_copy(update={"given_frames": None, "data": other.data})) == untimed(other)


def test_more_given_frames_than_the_data_have_are_refused(trained):
    cfg, models, data = trained

    with pytest.raises(BadInput, match="given_frames=21 leaves nothing to forecast: the data have 21 times"):
        evaluate(cfg, EvalConfig(given_frames=21), models, data, device=CPU)


def test_an_evaluation_is_a_function_of_its_seed(trained):
    cfg, models, data = trained
    settings = EvalConfig(trajectories=4, rollout_steps=5, members=4, one_step_pairs=16, student_steps=(1, 2))

    one, same = (untimed(evaluate(cfg, settings, models, data, device=CPU)[0]) for _ in range(2))
    other = evaluate(cfg, settings.model_copy(update={"seed": 1}), models, data, device=CPU)[0]

    assert one == same
    assert one.probabilistic != other.probabilistic
