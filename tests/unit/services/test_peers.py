"""Peers: networks of others that are trained beside a run, as long as its operator, and evaluated on the same rows."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from flows.requests.job import parse, settings_of
from flows.requests.train import TrainRequest
from tasks.services.data.datasets import trajectory_files
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from tasks.services.stages import peers
from tasks.services.stages.peers import (
    evaluate_peers,
    evaluate_regression,
    flops_of_step,
    peer_config,
    seconds_per_step,
)
from ups_models import peers as known_peers
from ups_models.config.loading import load_config
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.errors import BadInput, Preempted
from ups_models.evaluation.checks import check
from ups_models.evaluation.result import EvaluationResult, PeerResult
from ups_models.nn.own import as_operator
from ups_models.peers import PEERS, Peer, require_peer
from ups_models.report.tables import peer_table
from ups_models.stages.registry import STAGES

CPU = torch.device("cpu")
SMOKE = Path("configs/smoke.yaml")
SETTINGS = EvalConfig(split="test", trajectories=4, peers=("unet",))


@pytest.fixture
def run(finished_run, smoke, tmp_path):
    """A copy of the finished run, whose peers get a few steps."""
    root = shutil.copytree(finished_run, tmp_path / "run")
    for name in PEERS:
        folder = root / "peers" / name
        folder.mkdir(parents=True)
        budget = {"steps": 3, "seconds_per_step": 0.2, "operator_seconds_per_step": 0.02}
        (folder / "budget.json").write_text(json.dumps(budget))
    return RunDir.of(root, smoke.checkpoint.dir)


def with_stage(cfg, stage, **update):
    changed = cfg.stages.of(stage).model_copy(update=update)
    return cfg.model_copy(update={"stages": cfg.stages.model_copy(update={stage: changed})})


def grids(smoke):
    plane = {"problem": "kolmogorov2d", "points": 16, "generate": {"n": 8, "nt": 9}, "test": 2, "val": 2}
    latent = {"tokens": 4, "dim": 16}
    small = {"operator": {"modes": 3}, "denoiser": {"modes": 3, "scale_groups": 1}}
    return {"a line": smoke, "a plane": PipelineConfig.model_validate({"data": plane, "latent": latent, **small})}


@pytest.mark.parametrize("where", ["a line", "a plane"])
@pytest.mark.parametrize("name", [*PEERS])
def test_a_peer_begins_as_persistence_with_the_conserved_mean_and_learns(smoke, run, name, where):
    cfg = peer_config(grids(smoke)[where], name, {}, steps=3)
    torch.manual_seed(0)
    net = STAGES["operator"].build(cfg)
    operator = as_operator(net)
    u = torch.randn(2, 1, *cfg.data.grid)
    mean = u.flatten(2).mean(-1)

    forecast = operator.decode(
        operator.advance(operator.encode(u), torch.zeros(2, len(cfg.data.problem.parameters) + 1)), mean
    )
    forecast.square().sum().backward()

    assert torch.allclose(forecast.flatten(2).mean(-1), mean, atol=1e-5)
    if name != "fno":  # whose library does not start it at zero
        assert torch.allclose(forecast, u, atol=1e-5)
    assert any(one.grad is not None and one.grad.abs().sum() > 0 for one in net.parameters())


def test_a_peer_has_the_recipe_and_the_files_of_the_operator(smoke, run):
    files = trajectory_files(smoke, run)

    found = peer_config(smoke, "unet", files, steps=7)

    ours, theirs = smoke.stages.operator, found.stages.operator
    same = ("batch_size", "unroll", "min_batch_size", "initial_share", "grad_clip", "ema_decay", "weight_decay")
    assert [getattr(theirs, name) for name in same] == [getattr(ours, name) for name in same]
    assert (theirs.total_steps, theirs.reconstruction_weight, theirs.consistency_weight) == (7, 0, 0)
    assert [path.name for path in found.data.files] == [path.name for path in files]
    assert (found.data.test, found.data.val, found.seed) == (smoke.data.test, smoke.data.val, smoke.seed)
    assert found.stages.diff_residual.epochs == 0


def test_peers_are_trained_once_below_the_run_and_leave_its_status_alone(smoke, run):
    before = run.status.read_bytes()

    first = evaluate_peers(smoke, SETTINGS, run, CPU)
    status = run.root / "peers" / "unet" / "checkpoints" / "stage_status.json"
    trained = status.read_bytes()
    again = evaluate_peers(smoke, SETTINGS, run, CPU)

    assert (first["unet"].steps, first["unet"].seconds_per_step) == (3, 0.2)
    assert first["unet"].mean == again["unet"].mean
    assert status.read_bytes() == trained
    assert run.status.read_bytes() == before


def test_a_peer_that_is_stopped_goes_on_where_it_was(smoke, run, monkeypatch):
    there = RunDir.of(run.root / "peers" / "unet", smoke.checkpoint.dir)
    straight = evaluate_peers(smoke, SETTINGS, run, CPU)["unet"].mean
    shutil.rmtree(there.checkpoints)

    def stopped(*arguments, **options):
        raise Preempted("stopped")

    monkeypatch.setattr(peers, "train_stage_files", stopped)
    with pytest.raises(Preempted):
        evaluate_peers(smoke, SETTINGS, run, CPU)
    monkeypatch.undo()

    assert evaluate_peers(smoke, SETTINGS, run, CPU)["unet"].mean == straight
    assert read_status(there.status).stage("operator").status == "completed"


def test_the_budget_is_timed_once_and_kept(smoke, run):
    path = run.root / "peers" / "unet" / "budget.json"
    path.unlink()

    evaluate_peers(smoke, SETTINGS, run, CPU)

    kept = json.loads(path.read_text())
    expected = smoke.stages.operator.total_steps * kept["operator_seconds_per_step"] / kept["seconds_per_step"]
    assert kept["steps"] == max(1, round(expected))
    assert seconds_per_step(smoke, run, CPU) > 0


@pytest.mark.parametrize("text", ["{", '{"steps": 5}', "[]", '{"steps": 0, "seconds_per_step": 1}'])
def test_a_budget_that_is_damaged_is_timed_again(smoke, run, caplog, text):
    path, files = run.root / "peers" / "unet" / "budget.json", trajectory_files(smoke, run)
    path.write_text(text)

    assert peers._budget("unet", smoke, run, path, files, CPU).seconds_per_step > 0
    assert "budget.json: is not what was timed" in caplog.text
    assert json.loads(path.read_text())["steps"] >= 1


def test_another_operator_gets_its_peers_another_budget(smoke, run):
    path, files = run.root / "peers" / "unet" / "budget.json", trajectory_files(smoke, run)
    path.unlink()
    budget = peers._budget("unet", smoke, run, path, files, CPU)
    longer = with_stage(smoke, "operator", epochs=50 * smoke.stages.operator.epochs)

    assert peers._budget("unet", smoke, run, path, files, CPU) == budget
    assert peers._budget("unet", longer, run, path, files, CPU).steps > 5 * budget.steps


def test_a_regression_of_another_config_is_trained_again(smoke, run):
    settings = EvalConfig(split="test", steady_samples=4, peers=("regression",))
    status = RunDir.of(run.root / "peers" / "regression", smoke.checkpoint.dir).status
    trained = []
    for size in (4, 8, 8):
        evaluate_regression(with_stage(smoke, "steady_prior", batch_size=size), settings, run, CPU)
        trained.append(read_status(status).stage("steady_prior").config_hash)

    assert trained[0] != trained[1] == trained[2]


def test_operations_are_counted_with_the_ffts(smoke, run):
    counts = {}
    for name in PEERS:
        cfg = peer_config(smoke, name, {}, steps=3)
        counts[name] = flops_of_step(cfg, STAGES["operator"].build(cfg), CPU)

    convolution = 2 * 3 * 32 * 32 * smoke.data.grid[0]  # one of the U-Net's at full resolution
    assert counts["unet"] > 4 * convolution
    assert all(count > 1e5 for count in counts.values())


def test_a_package_that_is_missing_is_named_with_the_extra(monkeypatch):
    absent = Peer("Other", "fno.py", 1e-3, needs="no_such_package")
    monkeypatch.setitem(known_peers.PEERS, "fno", absent)

    with pytest.raises(BadInput, match=r"fno needs no_such_package: pip install 'ups-pipeline\[peers\]', or leave it"):
        require_peer("fno", (64,))


def test_the_config_asks_for_the_peers_of_the_full_evaluation(smoke):
    cfg = smoke.model_copy(update={"evaluations": smoke.evaluations.model_copy(update={"peers": ("unet",)})})

    settings = {name: settings_of(cfg, name, Path("configs") / f"{name}.yaml") for name in ("small_eval", "full_eval")}

    assert (settings["small_eval"].peers, settings["full_eval"].peers) == ((), ("unet",))


def test_the_best_peer_is_what_the_operator_is_checked_against():
    def peer(error):
        errors = {"mean": error, "median": error, "p90": error, "one_step": error, "ci95": (error, error)}
        times = {"steps": 3, "seconds_per_step": 0.1, "operator_seconds_per_step": 0.05, "operator_steps": 7}
        return PeerResult.model_validate({**errors, **times, "parameters": 10, "gflops": 1, "operator_gflops": 2})

    summary = {"operator": {"mean": 0.02, "median": 0.02, "ci95": [0.01, 0.03]}}
    network = {"parameters": 5, "latent": 4, "compression": 2, "reconstruction": 0, "seconds": 1}
    result = EvaluationResult.model_validate(
        {"rollout": {"summary": summary}, "one_step": {"operator": {"nrmse": 0.01}}, "network": network}
    ).model_copy(update={"peers": {"fno": peer(0.04), "unet": peer(0.1)}})

    found = {it.name: it for it in check(result)}["rollout nRMSE / that of the best peer at equal compute"]
    rows = peer_table(result).rows

    assert found.value == pytest.approx(0.5)
    assert [row[0] for row in rows] == ["Operator", "FNO (neuraloperator)", "U-Net"]
    assert rows[0][6] == "7"
    assert EvaluationResult.model_validate_json(result.to_json()).peers == result.peers


def test_the_pipeline_trains_the_peers_that_its_config_names(train, smoke, here):
    train(set=("evaluations.peers=[dilresnet]", "stages.diff_residual.epochs=0", "stages.consistency_distill.epochs=0",
               "stages.steady_prior.epochs=0"))  # fmt: skip

    result = json.loads((here / "reports" / "full_eval.json").read_text())
    assert result["peers"]["dilresnet"]["steps"] >= 1
    assert "Dil-ResNet" in (here / "reports" / "full_eval.md").read_text()
    assert [it["name"] for it in result["checks"]].count("rollout nRMSE / that of the best peer at equal compute") == 1


GRID = ("latent.tokens=9", "operator.modes=5", "denoiser.modes=5")
"""Settings that fit points which are divisible by 9."""


def test_a_grid_that_a_peer_cannot_halve_is_refused_before_anything_is_trained():
    request = TrainRequest(config=SMOKE, set=("data.points=54", *GRID, "evaluations.peers=[unet]"))

    with pytest.raises(BadInput, match=r"unet needs a grid whose points are divisible by 4, and data.points is 54;"):
        parse(request)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_takes_a_grid_that_it_is_said_to_take(name):
    points = 18 * 2 ** PEERS[name].halvings
    cfg = load_config(SMOKE, [f"data.points={points}", *GRID], schema=PipelineConfig)
    net = STAGES["operator"].build(peer_config(cfg, name, {Path("a.h5"): (0.1,)}, steps=1))

    assert flops_of_step(cfg, net, CPU) > 0
