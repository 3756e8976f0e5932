"""Fixtures that several modules of the science share: small data files of our own solvers, small networks."""

from pathlib import Path

import pytest
import torch

from ups_models.config.schema import PipelineConfig
from ups_models.data.generate import generate
from ups_models.nn.denoiser import ResidualDenoiser, ResidualDiffusion
from ups_models.nn.operator import LatentOperator
from ups_models.stages import diff_residual, operator
from ups_models.stages.stage import expect


@pytest.fixture(scope="session")
def burgers_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("burgers") / "burgers.hdf5"
    generate("burgers1d", path, n=6, seed=3, parameters={"Nu": 0.1}, nx=32, solver_nx=64, nt=5, t_end=0.4)
    return path


@pytest.fixture(scope="session")
def darcy_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("darcy") / "darcy.hdf5"
    generate("darcy2d", path, n=4, seed=3, parameters={"beta": 10.0}, nx=16)
    return path


@pytest.fixture(name="operator")
def latent_operator(smoke: PipelineConfig) -> LatentOperator:
    """An untrained operator of smoke.yaml."""
    torch.manual_seed(0)
    return expect(operator.build(smoke), LatentOperator)


@pytest.fixture
def diffusion(smoke: PipelineConfig) -> ResidualDiffusion:
    """An untrained diffusion of smoke.yaml, whose network is not zero."""
    torch.manual_seed(1)
    net = diff_residual.build(smoke)
    for parameter in expect(net.denoiser, ResidualDenoiser).project.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net
