"""The proof for GPUs: its parts on the CPU with small networks, and on a GPU where there is one."""

import json
import subprocess
import sys

import pytest
import torch

from flows import ROOT
from harness.bench.scale import SMALL, prepared
from harness.gpu.parts import PARTS, Bench, Launches
from ups_models.stages.registry import STAGES
from ups_models.training.steps import Steps

STARTED_WITH = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "", "OMP_NUM_THREADS": "1"}


def proof(tmp_path, *arguments):
    command = [sys.executable, "-m", "harness.gpu", *arguments, "--out", str(tmp_path)]
    return subprocess.run(command, env=STARTED_WITH, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_leaves_its_result_and_says_that_no_gpu_was_seen(tmp_path, part):
    done = proof(tmp_path, part, "--cpu")

    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / f"{part}.json").read_text())
    assert result["well"] is True
    assert result["machine"].startswith("no GPU, ")
    assert f"### {part}: " in done.stdout


def test_the_proof_imports_nothing_that_a_bare_machine_lacks():
    code = "import harness.gpu.parts, harness.gpu.victim, sys; print(*sorted(sys.modules))"
    modules = subprocess.run(
        [sys.executable, "-c", code], env=STARTED_WITH, capture_output=True, text=True, check=True
    ).stdout.split()

    assert {"torch", "numpy", "yaml", "pydantic"} <= set(modules)
    assert not {"prefect", "wandb", "PIL", "httpx", "vastai", "safetensors", "tasks"} & set(modules)


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_launches_no_more_kernels_than_it_did(stage):
    """Counted on meta tensors: what a GPU would be asked for."""
    cfg, data, frozen, state = prepared(SMALL, stage, 1)
    steps = Steps(STAGES[stage], cfg, data, frozen, torch.device("cpu"))
    steps.take(state)

    with Launches() as launches:
        steps.take(state)

    assert launches.count <= {"operator": 900, "diff_residual": 320, "consistency_distill": 760}.get(stage, 900)


@pytest.mark.gpu
@pytest.mark.parametrize("part", PARTS)
def test_what_is_promised_on_a_gpu_holds_there(part):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device is here")

    assert PARTS[part](Bench.on(torch.device("cuda")))["well"]
