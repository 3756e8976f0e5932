"""A coefficient that is known in part: what networks are shown of it, and the regression beside the prior."""

import json

import pytest
import torch
from pydantic import ValidationError

from tasks.services.stages.peers import regression_config
from ups_models.config.data import KnownConfig, SteadyDataConfig
from ups_models.config.schema import PipelineConfig
from ups_models.data.fields import SteadyFields
from ups_models.data.partly_known import NOTHING, as_known
from ups_models.errors import ArchitectureMismatch, BadInput
from ups_models.evaluation.steady import regression_errors
from ups_models.nn.prior import Prior
from ups_models.stages.spec import SPECS, check_architecture
from ups_models.stages.stage import LossInput
from ups_models.stages.steady_prior import STAGE, crps_loss


@pytest.fixture
def fields():
    generator = torch.Generator().manual_seed(0)
    a = torch.where(torch.rand(6, 8, 8, generator=generator) > 0.5, 1.0, 0.1)
    return SteadyFields(a, torch.rand(6, 8, 8, generator=generator), torch.ones(6), torch.arange(6))


def test_the_whole_coefficient_is_shown_as_it_is(fields):
    assert as_known(fields, KnownConfig()) is fields


def test_of_squares_only_the_mean_is_known(fields):
    shown = as_known(fields, KnownConfig(coarse=4)).a

    assert torch.allclose(shown[:, :4, 4:], fields.a[:, :4, 4:].mean((1, 2), keepdim=True).expand(-1, 4, 4))
    assert torch.allclose(shown.mean((1, 2)), fields.a.mean((1, 2)))


def test_hidden_squares_are_the_same_whichever_rows_are_asked_for(fields):
    known = KnownConfig(hidden=0.4, noise=0.1)

    shown = as_known(fields, known).a
    some = as_known(fields.select(torch.tensor([4, 1])), known).a

    assert torch.equal(some, shown[[4, 1]])
    assert 0.2 < (shown == torch.tensor(NOTHING)).float().mean() < 0.6
    assert torch.equal(as_known(fields, known).u, fields.u)


def test_noise_is_a_factor(fields):
    shown = as_known(fields, KnownConfig(noise=0.3)).a

    assert (shown > 0).all()
    assert (shown / fields.a).log().std() == pytest.approx(0.3, rel=0.15)


def test_squares_that_do_not_fit_are_refused():
    with pytest.raises(ValidationError, match=r"known\.coarse=5 does not divide size=32"):
        SteadyDataConfig(known=KnownConfig(coarse=5))


def test_a_regression_is_measured_as_one_forecast(fields):
    class Exact(Prior):
        def __init__(self):
            super().__init__()
            self.register_buffer("unit", torch.tensor(2.0))
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x, t, a, known):
            assert not x.any()
            assert not t.any()
            assert known.all()
            return fields.u / 2.0

    assert regression_errors(Exact(), fields) == {"nrmse": 0.0, "mae": 0.0}


def test_the_pipeline_trains_a_regression_beside_the_prior(train, here):
    train(set=("evaluations.peers=[regression]", "steady_data.known.coarse=2", "stages.operator.epochs=0",
               "stages.diff_residual.epochs=0", "stages.consistency_distill.epochs=0"))  # fmt: skip

    result = json.loads((here / "reports" / "full_eval.json").read_text())
    assert result["darcy"]["regression"]["mae"] > 0
    check = next(one for one in result["checks"] if one["name"] == "steady prior CRPS / error of a regression")
    assert check["value"] == pytest.approx(
        result["darcy"]["steady_prior"]["crps"] / result["darcy"]["regression"]["mae"]
    )
    assert "Regression" in (here / "reports" / "full_eval.md").read_text()


TRAINS_BY_CRPS = (
    "stages.steady_prior.objective=crps", "evaluations.peers=[regression]", "steady_data.known.coarse=2",
    "stages.operator.epochs=0", "stages.diff_residual.epochs=0", "stages.consistency_distill.epochs=0",
)  # fmt: skip


def test_a_prior_that_is_trained_by_its_crps_samples_in_one_evaluation(train, here):
    train(set=TRAINS_BY_CRPS)

    result = json.loads((here / "reports" / "full_eval.json").read_text())
    assert result["darcy"]["steady_prior"]["nfe"] == 1


def test_a_regression_has_as_many_evaluations_of_the_network_as_the_samples():
    def of(**settings):
        cfg = PipelineConfig.model_validate({"stages": {"steady_prior": {"batch_size": 8, **settings}}})
        return regression_config(cfg, {}).stages.steady_prior

    assert (of().objective, of().batch_size) == ("regression", 8)
    assert of(objective="crps", members=3).batch_size == 24


def test_a_prior_is_not_sampled_in_a_way_that_it_was_not_trained_for():
    flow, crps = (
        SPECS["steady_prior"].arch(
            PipelineConfig.model_validate({"stages": {"steady_prior": {"objective": objective}}})
        )
        for objective in ("flow", "crps")
    )

    with pytest.raises(ArchitectureMismatch, match="objective"):
        check_architecture("steady_prior_ema.pt", flow, crps)


def test_samples_that_are_all_alike_have_a_higher_crps_than_samples_that_spread_like_the_truth():
    class Noisy(Prior):
        def __init__(self, width):
            super().__init__()
            self.register_buffer("unit", torch.ones(()))
            self.width = width

        def forward(self, x, t, a, known):
            assert not t.any()
            return self.width * x

    truth = torch.randn(512, 4, 4, generator=torch.Generator().manual_seed(3))
    batch = {"u": truth, "a": torch.ones_like(truth), "beta": torch.ones(512)}

    def loss(width):
        net, rng = Noisy(width), torch.Generator().manual_seed(4)
        step = LossInput(net, net, {}, batch, 0.0, rng)
        return float(crps_loss(step, members=2, coefficient_dropout=0.0))

    assert loss(1.0) < 0.75 * loss(0.0)
    assert loss(1.0) < loss(2.0)


def test_a_regression_is_no_prior(train):
    with pytest.raises(BadInput, match=r"objective=regression gives one state.*evaluations\.peers=\[regression\]"):
        train(set=("stages.steady_prior.objective=regression",))


def test_the_median_is_learned_first_on_as_many_evaluations_as_the_samples_take(fields):
    values = {"objective": "crps", "batch_size": 2, "members": 3, "tuned_share": 0.25}
    cfg = PipelineConfig.model_validate({"steady_data": {"size": 8}, "stages": {"steady_prior": values}})
    net = STAGE.build(cfg)
    a, rng = fields.a[:2], torch.Generator().manual_seed(0)
    start = net(torch.zeros_like(a), torch.zeros(2), a, torch.ones(2))

    sizes = [len(STAGE.sample_batch(cfg, fields, progress, rng)["u"]) for progress in (0.0, 0.74, 0.75, 0.99)]

    assert sizes == [6, 6, 2, 2]
    assert torch.equal(net(torch.ones_like(a), torch.zeros(2), a, torch.ones(2)), start)  # noise means nothing yet
