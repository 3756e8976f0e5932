"""Several processes that train together: their sums, their agreement, and how the command starts and stops them."""

import dataclasses
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from flows import ROOT
from harness.bench.comparison import contents, differences
from harness.bench.scale import SMALL, prepared
from harness.chaos.ranks import RANK, OwnerProcess
from harness.worlds import gradients, in_world, sums
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from tasks.services.stages.evaluated import data_of, models_of
from tasks.services.stages.evaluators import evaluators
from ups_models.config.loading import load_config
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.errors import TrainingDiverged
from ups_models.evaluation.evaluate import evaluate
from ups_models.stages.registry import STAGES
from ups_models.stages.spec import SPECS
from ups_models.training.parallel import World
from ups_models.training.steps import Steps

SHARDS, NUMBERS = 8, 501


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_every_number_of_processes_and_every_way_make_the_same_sum_to_the_bit(world_size):
    ways = ("gather", "slices", *(("subtree",) if world_size != 3 else ()))

    found = in_world(world_size, sums, SHARDS, NUMBERS, ways)

    [alone] = sums(World(), SHARDS, NUMBERS, ("gather",))
    assert set(itertools.chain.from_iterable(found)) == {alone}


@pytest.mark.parametrize(("world_size", "way"), [(2, None), (2, "gather"), (3, None), (4, None)])
def test_a_gradient_that_is_sent_while_it_is_computed_has_the_same_bits(world_size, way):
    found = in_world(world_size, gradients, SHARDS, way, 500)

    assert found == [gradients(World(), SHARDS, None, 500)] * world_size


def agreed(world):
    return world.any_of(world.rank == 1, False), world.from_first({"rank": world.rank}), list(world.shards(8))


def test_a_wish_of_any_process_is_that_of_all_and_shards_are_shared_out():
    found = in_world(3, agreed)

    assert [one[0] for one in found] == [(True, False)] * 3
    assert [one[1] for one in found] == [{"rank": 0}] * 3
    assert [one[2] for one in found] == [[0, 1, 2], [3, 4, 5], [6, 7]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run that one process has trained."""
    root = tmp_path_factory.mktemp("alone")
    assert OwnerProcess(root, 1, root.with_suffix(".log")).end() == 0
    return root


@pytest.fixture(scope="module")
def alone(undisturbed):
    """What one process trains."""
    return contents(undisturbed)


def diverges_with_the_second(world):
    """The message of a training in which the batches of one process alone are not finite."""
    cfg, data, frozen, state = prepared(SMALL, "operator", 8)
    stage = STAGES["operator"]

    def sample(part, rows, done, rng):
        batch = stage.sample_batch(part, rows, done, rng)
        is_bad = world.rank == 1 and state.step == 2
        return {name: value * (float("nan") if is_bad else 1.0) for name, value in batch.items()}

    steps = Steps(dataclasses.replace(stage, sample_batch=sample), cfg, data, frozen, torch.device("cpu"), world)
    try:
        for _ in range(4):
            steps.take(state)
    except TrainingDiverged as error:
        return str(error), state.step
    return "no error", state.step


def test_a_number_that_is_not_finite_in_one_process_stops_all_at_the_same_step():
    found = in_world(3, diverges_with_the_second)

    [(message, step)] = set(found)
    assert message.startswith("operator: the loss is nan at step 3; the weights were not touched")
    assert step == 2


def wait_until(condition, within_s=120.0):
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {within_s:g} s")


@pytest.mark.thorough  # CI runs make chaos-ranks
def test_a_run_is_stopped_with_three_processes_and_goes_on_with_two_of_which_one_is_killed(tmp_path, alone):
    root, run = tmp_path / "run", RunDir.of(tmp_path / "run", tmp_path / "run" / "checkpoints")
    owner = OwnerProcess(root, 3, tmp_path / "log")
    wait_until(run.resume("operator").is_file)
    os.kill(owner.below(RANK)[1], signal.SIGTERM)
    assert owner.end() == 75, (tmp_path / "log").read_text()
    assert read_status(run.status).stage("operator").step in range(1, 150)

    owner = OwnerProcess(root, 2, tmp_path / "log")
    os.kill(wait_until(lambda: owner.below(RANK))[-1], signal.SIGKILL)

    assert owner.end() == 0, (tmp_path / "log").read_text()
    assert differences(alone, contents(root)) == []


def test_an_evaluation_goes_on_alone_where_its_processes_are_killed(undisturbed, caplog):
    run = RunDir.of(undisturbed, undisturbed / "checkpoints")
    cfg, cpu = load_config(undisturbed / "config.yaml", schema=PipelineConfig), torch.device("cpu")
    settings, stages = EvalConfig(trajectories=16, rollout_steps=10, members=4), dict.fromkeys(SPECS)
    models = models_of(cfg, run, stages, cpu)
    data = data_of(cfg, settings, run, models)

    with evaluators("small_eval", cfg, settings, run, [*stages], 2) as ask:
        shared = evaluate(cfg, settings, models, data, device=cpu, ask=ask)[0]
        for process in multiprocessing.active_children():
            process.kill()
        rest = evaluate(cfg, settings, models, data, device=cpu, ask=ask)[0]

    assert "an evaluating process was killed; this one goes on alone" in caplog.text
    without_seconds = [result.model_copy(update={"network": None}).to_json() for result in (shared, rest)]
    assert without_seconds[0] == without_seconds[1]


BROKEN = """
import os
import torch
from ups_models.nn.own import OneStep

class Net(OneStep):
    def __init__(self, shapes):
        super().__init__(shapes)
        self.factor, self.calls = torch.nn.Parameter(torch.ones(())), 0

    def step(self, u, parameters):
        self.calls += 1
        if os.environ.get("RANK") == "1" and self.calls > 30:
            raise ValueError("only here")
        return self.factor * u
"""


def test_an_error_in_one_rank_is_that_of_the_stage_and_is_not_tried_again(tmp_path):
    (tmp_path / "net.py").write_text(BROKEN, "utf-8")
    command = [sys.executable, "-m", "flows.cli", "train", "--config", str(ROOT / "configs" / "smoke.yaml")]
    settings = ["training.shards=2", "operator.network=net.py:Net", "latent.dim=8"]
    settings = [argument for one in settings for argument in ("--set", one)]

    done = subprocess.run(
        [*command, *settings, "--processes", "2", "--stage", "operator"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip

    assert done.returncode == 1
    assert "ValueError: only here" in done.stderr.splitlines()[-1]
    assert "died" not in done.stderr
    record = read_status(tmp_path / "checkpoints" / "stage_status.json").stage("operator")
    assert (record.status, record.error_message) == ("failed", "ValueError: only here")


def test_no_rank_outlives_an_owner_that_is_killed(tmp_path):
    owner = OwnerProcess(tmp_path / "run", 2, tmp_path / "log")
    ranks = wait_until(lambda: len(owner.below(RANK)) == 2 and owner.below(RANK))

    owner.process.kill()
    owner.process.wait()

    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks))


def torchrun(n_processes, root, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    script = [str(ROOT / "flows" / "pipeline.py"), "--config", "configs/smoke.yaml", "--run-dir", str(root)]
    return subprocess.run(
        [*command, *script, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_pipeline_takes_part_in_a_torchrun_of_the_users(tmp_path):
    settings = ("--set", "training.shards=2", "--stage", "operator")

    together = torchrun(2, tmp_path / "together", *settings)
    apart = torchrun(1, tmp_path / "apart", *settings)

    assert (together.returncode, apart.returncode) == (0, 0), together.stderr
    paths = [tmp_path / name / "checkpoints" / "operator_ema.pt" for name in ("together", "apart")]
    one, other = (torch.load(path, weights_only=True)["state_dict"] for path in paths)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_more_processes_than_shards_are_refused_in_one_line(tmp_path):
    done = torchrun(2, tmp_path / "run", "--stage", "operator")

    assert done.returncode != 0
    assert "torchrun started 2 processes, but training.shards=1: a process computes whole shards" in done.stderr
    assert not (tmp_path / "run" / "checkpoints" / "operator.pt").exists()
