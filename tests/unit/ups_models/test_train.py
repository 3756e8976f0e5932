"""The training loop: a function of the seed, whatever happened in between."""

import dataclasses
import itertools

import pytest
import torch

from ups_models.data.fields import Fields, SteadyFields
from ups_models.errors import Preempted, TrainingDiverged
from ups_models.problems.registry import BURGERS
from ups_models.stages.lineage import Lineage
from ups_models.stages.registry import STAGES
from ups_models.training.loop import Hooks, fit
from ups_models.training.optim import learning_rate
from ups_models.training.parallel import World
from ups_models.training.seeds import derive_seed
from ups_models.training.state import start_state
from ups_models.training.steps import Steps

CPU = torch.device("cpu")
ALONE = World()
NAMES = list(STAGES)


def waves(n=8, times=11, points=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.arange(points) + 0.5) / points
    t = torch.arange(times) * 0.05
    phase = torch.rand(n, 1, 1, generator=generator)
    u = torch.exp(-t)[None, :, None] * torch.sin(2 * torch.pi * (x - phase - 0.3 * t[:, None]))
    return Fields(BURGERS, u[:, :, None], (x,), t, torch.full((n, 1), 0.1), torch.arange(n))


def steady(n=8, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.where(torch.rand(n, size, size, generator=generator) > 0.5, 1.0, 0.1)
    return SteadyFields(a, a.cumsum(-1) / size, torch.ones(n), torch.arange(n))


class Harness:
    """Fits any stage in a directory, stops where it is told, and counts."""

    def __init__(self, cfg, directory):
        self.cfg, self.directory = cfg, directory
        self.steps: list[int] = []
        self.epochs: list[int] = []

    def frozen(self, stage):
        nets = {}
        for name in stage.spec.needs:
            torch.manual_seed(derive_seed("frozen", name))
            nets[name] = STAGES[name].build(self.cfg).requires_grad_(False)
        return nets

    def fit(self, name, *, stop_at=None, data=None, world=ALONE, poisoned_at=None, read_every=None):
        stage = STAGES[name] if poisoned_at is None else poisoned(STAGES[name], poisoned_at / 30)
        return fit(
            stage,
            self.cfg,
            data if data is not None else (steady() if stage.spec.steady else waves()),
            self.frozen(stage),
            device=CPU,
            resume_path=self.directory / f"{name}.pt",
            lineage=Lineage.of(stage.spec, self.cfg, {"seed": str(self.cfg.seed)}),
            hooks=Hooks(
                on_step=lambda progress: self.steps.append(progress.step),
                on_epoch=lambda progress: self.epochs.append(progress.epoch),
                should_stop=lambda: bool(stop_at) and self.steps[-1:] == [stop_at],
            ),
            world=world,
            read_every=read_every,
        )


def poisoned(stage, progress):
    """The stage with batches that are not finite from then on."""

    def sample(cfg, data, done, rng):
        batch = stage.sample_batch(cfg, data, done, rng)
        return {name: value * (float("nan") if done >= progress else 1.0) for name, value in batch.items()}

    return dataclasses.replace(stage, sample_batch=sample)


@pytest.fixture
def harness(smoke, tmp_path):
    return Harness(smoke, tmp_path)


def tensors(state):
    found = {f"net.{key}": value for key, value in state.net.state_dict().items()}
    found |= {f"ema.{key}": value for key, value in state.ema.state_dict().items()}
    for index, moments in state.optimiser.state_dict()["state"].items():
        found |= {f"optimiser.{index}.{key}": value for key, value in moments.items()}
    return found


def assert_identical(one, other):
    left, right = tensors(one), tensors(other)
    assert left.keys() == right.keys()
    assert [key for key in left if not torch.equal(left[key], right[key])] == []


TUNED = {"tuned_share": 0.9, "tuned_unroll": (1, 2), "tune_operator": True}


def with_tuning(cfg):
    """The student of the config is tuned, and an operator with it."""
    return cfg.model_copy(
        update={
            "stages": cfg.stages.model_copy(
                update={"consistency_distill": cfg.stages.consistency_distill.model_copy(update=TUNED)}
            )
        }
    )


@pytest.mark.parametrize("name", [*NAMES, "tuned"])
def test_an_interrupted_stage_ends_with_the_weights_of_an_uninterrupted_one(smoke, tmp_path, name):
    if name == "tuned":
        smoke, name = with_tuning(smoke), "consistency_distill"
    straight = Harness(smoke, tmp_path / "straight").fit(name)

    stopped = Harness(smoke, tmp_path / "stopped")
    with pytest.raises(Preempted, match="--auto-resume"):
        stopped.fit(name, stop_at=7)
    resumed = Harness(smoke, tmp_path / "stopped")
    final = resumed.fit(name)

    assert resumed.steps[0] == 8
    assert_identical(final, straight)


def test_a_resume_without_the_saved_state_would_differ(smoke, tmp_path):
    straight = Harness(smoke, tmp_path).fit("operator")

    other = Harness(smoke.model_copy(update={"seed": 1}), tmp_path / "other").fit("operator")

    assert any(not torch.equal(a, b) for a, b in zip(tensors(straight).values(), tensors(other).values(), strict=True))


def test_every_step_and_every_epoch_is_told_once(harness):
    harness.fit("operator")

    assert harness.steps == list(range(1, 31))
    assert harness.epochs == [1, 2, 3]


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss(smoke, tmp_path, name):
    losses: list[float] = []
    stage = STAGES[name]
    harness = Harness(longer(smoke, name), tmp_path)

    fit(
        stage,
        harness.cfg,
        steady() if stage.spec.steady else waves(),
        harness.frozen(stage),
        device=CPU,
        resume_path=tmp_path / "state.pt",
        lineage=Lineage.of(stage.spec, harness.cfg, {}),
        hooks=Hooks(on_step=lambda progress: losses.append(progress.loss)),
        world=ALONE,
    )

    first = slice(5) if name != "diff_residual" else slice(30, 60)  # after the scale's own warm-up
    assert mean(losses[-20:]) < mean(losses[first])


def mean(values):
    return sum(values) / len(values)


def longer(cfg, name):
    settings = getattr(cfg.stages, name)
    update: dict[str, object] = {"epochs": 6, "steps_per_epoch": 20}
    if name == "operator":
        update["unroll"] = (1,)
    return cfg.model_copy(update={"stages": cfg.stages.model_copy(update={name: settings.model_copy(update=update)})})


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(harness):
    data = waves()
    data = dataclasses.replace(data, stored=data.u * float("nan"))

    with pytest.raises(TrainingDiverged, match=r"operator: the loss is nan at step 1; .*stages\.operator\.lr"):
        harness.fit("operator", data=data)

    assert harness.steps == []


@pytest.mark.parametrize("read_every", [1, 4, 7, 100])
def test_a_step_that_is_not_finite_is_named_however_rarely_numbers_are_read(harness, read_every):
    with pytest.raises(TrainingDiverged, match="operator: the loss is nan at step 14; the weights were not touched"):
        harness.fit("operator", poisoned_at=13, read_every=read_every)

    assert harness.steps == list(range(1, 1 + 13 // read_every * read_every))


def test_numbers_that_are_read_rarely_are_reported_all_and_change_no_weight(smoke, tmp_path):
    straight = Harness(smoke, tmp_path / "straight").fit("operator")
    rarely = Harness(smoke, tmp_path / "rarely")

    with pytest.raises(Preempted):
        rarely.fit("operator", read_every=4, stop_at=8)
    assert_identical(rarely.fit("operator", read_every=7), straight)

    assert rarely.steps == list(range(1, 31))
    assert rarely.epochs == [1, 2, 3]


def test_batches_that_are_made_ahead_are_the_same(smoke):
    ends = []
    for ahead in (False, True):
        stage, data = STAGES["operator"], waves()
        steps = Steps(stage, smoke, data, {}, CPU, ahead=ahead)
        ends.append(start_state(stage, smoke, data, {}, CPU))
        for _ in range(30):
            steps.take(ends[-1])

    assert_identical(*ends)


def test_a_state_of_another_training_is_named_and_not_resumed(smoke, tmp_path, caplog):
    with pytest.raises(Preempted):
        Harness(smoke, tmp_path).fit("operator", stop_at=3)
    other = Harness(smoke.model_copy(update={"seed": 5}), tmp_path)

    other.fit("operator")

    assert f"{tmp_path / 'operator.pt'}: is of a training with another seed" in caplog.text
    assert other.steps[0] == 1


def test_a_consistency_student_starts_from_its_teacher(smoke, tmp_path):
    harness = Harness(smoke, tmp_path)
    teacher = harness.frozen(STAGES["consistency_distill"])["diff_residual"].state_dict()

    with pytest.raises(Preempted):
        harness.fit("consistency_distill", stop_at=1)

    saved = torch.load(tmp_path / "consistency_distill.pt", weights_only=True)["state_dict"]
    moved = max((saved[key] - teacher[key]).abs().max().item() for key in teacher)
    assert 0 < moved < 10 * smoke.stages.consistency_distill.lr


def test_the_learning_rate_warms_up_and_falls_to_zero(smoke):
    settings = smoke.stages.operator
    rates = [learning_rate(settings, step) for step in range(settings.total_steps + 1)]

    assert rates[0] < rates[2]
    assert max(rates) <= settings.lr
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert all(late <= early for early, late in itertools.pairwise(rates[4:]))
