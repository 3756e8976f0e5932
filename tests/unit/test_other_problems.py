"""Other problems than Burgers' take the same path through all stages: two dimensions, walls, several channels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flows.dag import run_job
from flows.requests.job import parse
from flows.requests.train import TrainRequest
from tasks.services.run.paths import RunDir
from ups_models.config.schema import PipelineConfig
from ups_models.evaluation.result import read_result
from ups_models.nn.blocks import NeighbourConv, TokenGrid, spectral_mix
from ups_models.nn.codec import FieldGrid, cosines, means_of
from ups_models.nn.own import as_operator
from ups_models.problems.registry import DIFFUSION_REACTION, EVOLVING, solved_problems
from ups_models.stages import operator

TINY = (
    "data.points=16", "data.test=3", "data.val=3", "data.generate.n=9", "data.generate.nt=5", "data.generate.t_end=0.4",
    "steady_data.size=8", "steady_data.test=3", "steady_data.val=3", "steady_data.generate.n=9",
    "latent.tokens=4", "latent.dim=8", "operator.modes=3", "denoiser.modes=3", "denoiser.scale_groups=4",
    "stages.operator.unroll=[1,2]", "prior.levels=1",
)  # fmt: skip
SMOKE = Path("configs/smoke.yaml")
PERIODIC, WALLS = (True, True), (False, False)


UNEVEN = (
    "data.points=[16,24]", "latent.tokens=[4,6]", "denoiser.residual=field", "denoiser.scale_groups=8",
    "data.files=[uneven.npz]",
)  # fmt: skip


@pytest.fixture
def uneven(here):
    """Trajectories on cells that are twice as long as wide, in the working directory."""
    x, y = ((np.arange(n) + 0.5) / n * 2 - 1 for n in (16, 24))
    phase = np.random.default_rng(0).uniform(0, 3, (9, 5, 2, 1, 1))
    u = np.cos(np.pi * x[:, None] + phase) * np.cos(2 * np.pi * y)
    known: dict[str, Any] = {one.name: one.default for one in DIFFUSION_REACTION.parameters}
    np.savez(here / "uneven.npz", u=u, t=0.1 * np.arange(5), x=x, y=y, problem=DIFFUSION_REACTION.name, **known)


@pytest.mark.usefixtures("uneven")
@pytest.mark.parametrize(
    ("problem", "grid", "more"), [("kolmogorov2d", (16, 16), ()), ("diffusion_reaction2d", (16, 24), UNEVEN)]
)
def test_a_run_of_another_problem_is_trained_evaluated_and_reported(tmp_path, problem, grid, more):
    request = TrainRequest(config=SMOKE, run_dir=tmp_path, set=(f"data.problem={problem}", *TINY, *more))

    run_job(parse(request))

    result = read_result(RunDir.of(tmp_path, tmp_path / "checkpoints").result("full_eval", ".json"))
    assert result.data is not None
    assert result.data.grid == grid
    assert result.data.channels == (None if problem == "kolmogorov2d" else ("activator", "inhibitor"))
    assert set(result.one_step) == {"operator", "persistence", "constant_mean", "zero"}
    assert result.rollout is not None
    assert result.rollout.pdebench["zero"]["nrmse"] == pytest.approx(1, abs=1e-6)
    page = (tmp_path / "reports" / "report.html").read_text("utf-8")
    assert f"{grid[0]} x {grid[1]} points in space" in page
    assert "Maps of truth, prediction and error" in page
    assert "truth, mean, one member, spread" in page


@pytest.fixture
def random_operator():
    """An operator of each problem with random weights, and fields for it."""

    def build(problem):
        cfg = PipelineConfig.model_validate(
            {
                "data": {"problem": problem, "points": 16},
                "latent": {"tokens": 4},
                "operator": {"modes": 3},
                "denoiser": {"modes": 3},
            }
        )
        torch.manual_seed(0)
        net, facts = operator.build(cfg), EVOLVING[problem]
        for value in net.parameters():
            torch.nn.init.normal_(value, std=0.1)
        u = torch.randn(3, len(facts.channels), *[16] * facts.dimensions)
        return net, u, torch.randn(3, len(facts.parameters) + 1)

    return build


@pytest.mark.parametrize("problem", [name for name in solved_problems() if name in EVOLVING])
def test_only_what_a_problem_conserves_is_held(random_operator, problem):
    net, u, told = random_operator(problem)

    after = net.decode(net.advance(net.encode(u), told), means_of(u))

    assert after.shape == u.shape
    drift = (means_of(after) - means_of(u)).abs().amax(0)
    for channel, moved in zip(EVOLVING[problem].channels, drift.tolist(), strict=True):
        assert (moved < 1e-5) == (channel in EVOLVING[problem].conserved), channel


@pytest.mark.parametrize("problem", ["kolmogorov2d", "gray_scott2d"])
def test_a_network_on_a_periodic_square_commutes_with_shifts_by_whole_tokens(random_operator, problem):
    net, u, told = random_operator(problem)

    def step(fields):
        return net.decode(net.advance(net.encode(fields), told), means_of(fields))

    shifted = step(u.roll((4, 8), (-2, -1)))

    assert torch.allclose(shifted, step(u).roll((4, 8), (-2, -1)), rtol=1e-3, atol=1e-3 * shifted.abs().max().item())


def test_a_network_between_walls_sees_no_neighbour_on_the_other_side():
    conv = NeighbourConv(1, 1, TokenGrid((4, 4), WALLS))
    x = torch.zeros(1, 16, 1)
    before = conv(x)
    x[0, 0] = 1.0  # a corner

    changed = (conv(x) - before).abs().view(4, 4) > 0

    assert changed.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


@pytest.mark.parametrize("periodic", [PERIODIC, WALLS, (True, False), (False,)])
def test_mixing_all_modes_by_nothing_is_the_identity(periodic):
    grid = TokenGrid((4, 6)[: len(periodic)], periodic)
    mix = spectral_mix(3, grid, modes=6)
    [weight] = mix.parameters()
    with torch.no_grad():
        weight.zero_()
        weight[0] = torch.eye(3)
    x = torch.randn(2, grid.size, 3)

    assert torch.allclose(mix(x), x, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2])
def test_patches_hold_every_value_once_and_smooth_functions_of_them_are_orthonormal(channels):
    grid = FieldGrid(channels, (8, 12), TokenGrid((2, 3), PERIODIC))
    u = torch.randn(2, channels, 8, 12)

    assert torch.equal(grid.to_fields(grid.to_patches(u)), u)
    assert torch.equal(grid.to_patches(u)[:, 0].sort().values, u[:, :, :4, :4].flatten(1).sort().values)
    rows = cosines(grid, grid.values)
    assert torch.allclose(rows @ rows.T, torch.eye(grid.values), atol=1e-6)
    assert torch.allclose(cosines(grid, channels)[:, 0].abs().amax(), torch.tensor(0.25))  # the mean of a channel


@pytest.mark.parametrize("problem", ["burgers1d", "kolmogorov2d", "diffusion_reaction2d"])
def test_the_codec_starts_as_the_identity_under_autocast_too(problem):
    dimensions = EVOLVING[problem].dimensions
    values = 4**dimensions * len(EVOLVING[problem].channels)
    raw = {
        "data": {"problem": problem, "points": 16},
        "latent": {"tokens": 4, "dim": values},
        "operator": {"modes": 3},
        "denoiser": {"modes": 3, "scale_groups": 1},
    }
    net = as_operator(operator.build(PipelineConfig.model_validate(raw)))
    u = torch.randn(6, len(EVOLVING[problem].channels), *[16] * dimensions, generator=torch.Generator().manual_seed(0))

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        again = net.decode(net.encode(u), means_of(u))

    assert (again - u).norm() / u.norm() < 1e-6


def test_what_is_right_to_the_bit_has_a_loss_of_almost_nothing_and_a_gradient():
    u = torch.full((2, 1, 16), 0.5, requires_grad=True)

    operator.relative_l2(u, u.detach()).backward()

    assert u.grad is not None
    assert torch.isfinite(u.grad).all()


@pytest.mark.parametrize("viscosity", [1.0, 0.1])
def test_a_field_that_has_decayed_to_a_constant_trains(tmp_path, viscosity):
    settings = (f"data.generate.parameters=[{viscosity}]", "data.generate.t_end=2.0", "data.generate.n=96")

    run_job(parse(TrainRequest(config=SMOKE, run_dir=tmp_path, stage="operator", set=settings)))

    assert (tmp_path / "checkpoints" / "operator_ema.pt").exists()


def test_a_steady_prior_alone_is_trained_evaluated_and_evaluated_again(train):
    off = tuple(f"stages.{name}.epochs=0" for name in ("operator", "diff_residual", "consistency_distill"))

    train(set=off)
    report = train(set=off, skip_training=True, redo_full_eval=True)

    result = read_result(report.with_name("full_eval.json"))
    assert result.darcy is not None
    assert result.rollout is None
    assert "Darcy" in report.read_text("utf-8")
