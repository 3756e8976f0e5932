"""A stage that starts from the weights of another run."""

from pathlib import Path

import pytest
import torch

from flows.requests.job import parse, require_feasible
from flows.requests.train import TrainRequest
from ups_models.errors import BadInput, CheckpointError
from ups_models.files import known_digest
from ups_models.stages.lineage import read_lineage
from ups_models.training.checkpoint import load_payload

SMOKE = Path("configs/smoke.yaml")
UNTRAINED = ("stages.operator.epochs=1", "stages.operator.steps_per_epoch=1", "stages.operator.lr=1e-9")


def weights(run, name="operator.pt"):
    return load_payload(run / "checkpoints" / name)["state_dict"]


def test_all_weights_that_fit_are_taken_and_the_lineage_says_from_where(here, finished_run, train):
    train(stage="operator", init_from=finished_run, set=UNTRAINED)

    before, after = weights(finished_run, "operator_ema.pt"), weights(here)
    assert all(torch.allclose(after[name], value, atol=1e-6) for name, value in before.items())
    lineage = read_lineage(here / "checkpoints" / "operator_ema.pt")
    assert lineage is not None
    assert lineage.inputs["init"] == known_digest(finished_run / "checkpoints" / "operator_ema.pt").sha256


def test_another_equation_and_resolution_take_what_has_the_same_shape(here, finished_run, train):
    other = ("data.problem=advection1d", "data.points=32", "data.generate.parameters=[1.0]")

    train(stage="operator", init_from=finished_run, set=(*UNTRAINED, *other))

    before, after = weights(finished_run, "operator_ema.pt"), weights(here)
    assert torch.allclose(after["propagator.lift.weight"], before["propagator.lift.weight"], atol=1e-6)
    assert after["encoder.skip.weight"].shape != before["encoder.skip.weight"].shape


def test_a_finished_stage_does_not_need_the_other_run_any_more(here, finished_run, train, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "checkpoints").mkdir()
    path = other / "checkpoints" / "operator_ema.pt"
    path.write_bytes((finished_run / "checkpoints" / "operator_ema.pt").read_bytes())
    start = (f"stages.operator.init_from={path}", *UNTRAINED)
    train(stage="operator", set=start)

    path.unlink()

    assert not require_feasible(parse(TrainRequest(config=SMOKE, stage="operator", set=start, auto_resume=True)))
    with pytest.raises(BadInput, match=r"stages\.operator\.init_from: .*: no such checkpoint; name one"):
        require_feasible(parse(TrainRequest(config=SMOKE, stage="operator", set=start, force_train=True)))


def test_what_is_no_run_and_what_fits_nowhere_are_refused(here, finished_run, train):
    with pytest.raises(BadInput, match=r"--init-from .*: holds no checkpoints; name the directory of a trained run"):
        train(init_from=here)
    with pytest.raises(CheckpointError, match="is a checkpoint of stage steady_prior, not of operator"):
        train(stage="operator", set=(f"stages.operator.init_from={finished_run}/checkpoints/steady_prior_ema.pt",))
