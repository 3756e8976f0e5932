"""A user's own equation, file layout and networks, through all of a run."""

import json
from pathlib import Path

import pytest
import torch

from flows import ROOT
from flows.dag import run_job
from flows.requests.job import parse
from flows.requests.train import TrainRequest
from tasks.services.data.datasets import trajectory_files
from tasks.services.run.own_files import with_code_in
from tasks.services.run.paths import RunDir
from tasks.services.stages.deciding import decide
from tasks.services.stages.job import Job
from tasks.services.stages.snapshot import read_snapshot
from ups_models.config.data import DataConfig
from ups_models.config.schema import PipelineConfig
from ups_models.errors import ArchitectureMismatch, BadInput
from ups_models.evaluation.result import read_result
from ups_models.nn.weights import weights_of
from ups_models.own_code import own_code
from ups_models.stages.lineage import read_lineage
from ups_models.surrogate import load_surrogate

SMOKE = Path("configs/smoke.yaml")
NETS = '''
import torch
from torch import nn

from ups_models import OneStep
from beside_nets import scale


class Step(OneStep):
    """u + a convolution over it."""

    def __init__(self, shapes, kernel=3):
        super().__init__(shapes)
        channels = shapes.fields[0]
        self.conv = nn.Conv1d(channels, channels, kernel, padding="same", padding_mode="circular")

    def step(self, u, parameters):
        return u + scale(self.conv(u))


class Denoiser(nn.Module):
    def __init__(self, shapes):
        super().__init__()
        self.mix = nn.Linear(4 * shapes.dim, shapes.dim)

    def forward(self, x, sigma, context):
        return self.mix(torch.cat([x, context], -1))


class Velocity(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x, t, a, known):
        return self.conv(torch.stack([x, a], 1))[:, 0]


class Headless(nn.Module):
    def __init__(self, shapes):
        super().__init__()

    def encode(self, u):
        return u


class Narrow(Step):
    def encode(self, u):
        return super().encode(u)[..., :1]


def not_a_network(shapes):
    return 3
'''
OWN = (
    "operator.network=nets.py:Step",
    "latent.dim=8",
    "denoiser.network=nets.py:Denoiser",
    "prior.network=nets.py:Velocity",
)


@pytest.fixture
def nets(here):
    """The working directory, with networks in it."""
    (here / "nets.py").write_text(NETS, "utf-8")
    (here / "beside_nets.py").write_text("def scale(x):\n    return 0.1 * x\n", "utf-8")
    own_code.cache_clear()
    yield here
    own_code.cache_clear()


def test_a_run_is_trained_evaluated_and_used_with_networks_of_ones_own(nets, train):
    train(set=OWN)

    full = read_result(nets / "reports" / "full_eval.json")
    assert full.rollout is not None
    lineage = read_lineage(nets / "checkpoints" / "operator_ema.pt")
    assert lineage is not None
    assert str(lineage.arch["network"]).startswith("nets.py:Step@")
    found = load_surrogate(nets).rollout(torch.randn(1, 64), steps=2, members=2)
    assert found.u.shape == (2, 3, 1, 64)
    assert json.loads((nets / "code.json").read_text())["nets.py"].keys() == {"nets.py", "beside_nets.py"}


def test_code_that_changed_is_another_architecture(nets, train):
    train(set=OWN, stage="operator")
    (nets / "beside_nets.py").write_text("def scale(x):\n    return 0.2 * x\n", "utf-8")
    own_code.cache_clear()

    with pytest.raises(ArchitectureMismatch, match=r"network=nets.py:Step@\w+ vs network=nets.py:Step@\w+"):
        train(set=OWN, auto_resume=True)


def test_a_run_that_came_from_elsewhere_executes_its_code_only_where_that_is_trusted(nets, train, ups):
    train(set=OWN, stage="operator", run_dir=nets / "run")
    elsewhere = nets / "elsewhere"
    (nets / "run").rename(elsewhere)
    for name in ("nets.py", "beside_nets.py"):
        (nets / name).unlink()
    own_code.cache_clear()

    with pytest.raises(BadInput, match=r"nets\.py is no file here.* --trust-code nets.py"):
        load_surrogate(elsewhere)

    assert ups("status", str(elsewhere)).returncode == 0, "what is there can be seen without executing anything"
    assert ups("status", str(elsewhere), "--plan").returncode == 2
    planned = ups("status", str(elsewhere), "--plan", "--trust-code", "nets.py")
    assert "operator               skip" in planned.stdout, planned.stderr
    assert load_surrogate(elsewhere, trust_code=["nets.py"]).step(torch.zeros(1, 64)).shape == (1, 64)
    spoilt = json.loads((elsewhere / "code.json").read_text())
    spoilt["nets.py"]["nets.py"] += "\nraise SystemExit\n"
    (elsewhere / "code.json").write_text(json.dumps(spoilt))
    with pytest.raises(BadInput, match="not what the run was trained with; it is not used"):
        load_surrogate(elsewhere, trust_code=["nets.py"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ("operator.network=nets.py:Headless",),
            "Headless has no advance, decode; an operator has encode, advance, decode",
        ),
        (("operator.network=nets.py:not_a_network",), "makes a int, expected a torch.nn.Module"),
        (("operator.network=nets.py:Narrow", "latent.dim=8"), r"encode\(u\) gives \(2, 8, 1\), expected \(2, 8, 8\)"),
        (("operator.network=nets.py:Step",), "each token is a whole patch: set latent.dim: 8, not 4"),
        (
            ("operator.network=nets.py:Step", "latent.dim=8", "operator.options={width: 3}"),
            r"Step\(shapes, width=3\) raises TypeError: .*unexpected keyword argument 'width'",
        ),
        (("denoiser.network=nets.py:Step", "latent.dim=8"), r"forward\(x, sigma, context\) raises NotImplementedError"),
        (("prior.network=nets.py:not_a_network",), "makes a int, expected a torch.nn.Module"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_in_one_line_before_any_stage_trains(
    nets, train, ups, settings, message
):
    with pytest.raises(BadInput, match=message) as caught:
        train(set=settings)

    assert "\n" not in str(caught.value)
    assert not list(nets.rglob("*.pt"))
    given = [word for one in settings for word in ("--set", one)]
    refused = ups("train", "--config", str(SMOKE), *given)
    assert refused.returncode == 2
    assert str(caught.value) in refused.stderr


def test_a_network_that_does_not_fit_is_refused_before_a_machine_is_rented(nets, ups, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    words = ("--config", str(SMOKE), "--provider", "local", "--dry-run", "--set", "prior.network=nets.py:Headless")

    refused = ups("launch", *words)

    assert refused.returncode == 2
    assert "nets.py:Headless: forward(x, t, a, known) raises" in refused.stderr


def test_what_a_launch_sends_names_the_files_that_lie_beside_the_config(nets):
    cfg = PipelineConfig.model_validate({"operator": {"network": str(nets / "nets.py:Step")}, "latent": {"dim": 8}})

    assert with_code_in(cfg, Path())["operator"]["network"] == "nets.py:Step"


def test_an_equation_of_ones_own_is_solved_trained_and_used(here, train):
    heat = f"data.problem={ROOT / 'docs' / 'examples' / 'heat.py'}:HEAT"
    train(set=(heat, "data.generate={n: 24, nt: 11, t_end: 0.5, parameters: [0.01, 0.02]}"), stage="operator")

    surrogate = load_surrogate(here)

    assert surrogate.problem.name == "heat1d"
    assert surrogate.trained_on["parameters"] == {"kappa": pytest.approx([0.01, 0.02])}
    assert surrogate.step(torch.randn(3, 1, 64), kappa=0.015).shape == (3, 1, 64)


LAYOUT = """
import numpy as np


def read(path):
    u = np.fromfile(path, np.float32).reshape(24, 11, 1, 64)
    return {"u": u, "t": np.arange(11.0), "x": np.arange(64.0), "nu": 1.0}


def broken(path):
    return [1, 2]
"""


def test_a_layout_of_ones_own_reads_files(here, train):
    (here / "layout.py").write_text(LAYOUT, "utf-8")
    torch.randn(24 * 11 * 64).numpy().tofile(here / "a.raw")
    files = ("data.problem=ks1d", "data.files=[a.raw]")

    train(set=(*files, "data.layout=layout.py:read"), stage="operator")

    assert load_surrogate(here).trained_on["dt"] == 1.0
    with pytest.raises(BadInput, match=r"a\.raw: layout.py:broken returns a list, expected arrays by their names"):
        train(set=(*files, "data.layout=layout.py:broken"), stage="operator", force_train=True)


def test_the_fourier_neural_operator_of_the_examples_is_trained_and_used(here, train):
    network = f"operator.network={ROOT / 'docs' / 'examples' / 'fno.py'}:Net"

    train(set=(network, "operator.options={modes: 4, width: 8, layers: 1}", "latent.dim=8"), stage="operator")

    surrogate = load_surrogate(here)
    assert surrogate.step(torch.zeros(1, 64)).shape == (1, 64)
    assert any(value.is_complex() for value in weights_of(surrogate.models.networks()["operator"]).values())


def test_a_plan_made_twice_of_the_same_code_is_idle(nets, train):
    train(set=OWN, stage="operator")
    job = parse(TrainRequest(config=SMOKE, set=OWN, stage="operator", auto_resume=True))

    assert isinstance(job, Job)
    assert decide(job, read_snapshot(job.cfg, RunDir.of(Path(), Path("checkpoints")))).idle
    run_job(job)


def test_another_solver_of_ones_own_makes_other_data(tmp_path, smoke):
    names = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        text = (ROOT / "docs" / "examples" / "heat.py").read_text("utf-8")
        (folder / "heat.py").write_text(f"{text}\nVERSION = {number}\n", "utf-8")
        data = {"problem": f"{folder / 'heat.py'}:HEAT", "points": 32, "test": 1, "val": 1, "generate": {"n": 4}}
        cfg = smoke.model_copy(update={"data": DataConfig.model_validate(data)})
        names.append([path.name for path in trajectory_files(cfg, RunDir.of(tmp_path, Path("checkpoints")))])

    assert names[0] != names[1]
