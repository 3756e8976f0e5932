"""The operator beside its peers at equal compute: error over CPU seconds, with intervals.

    make bench-peers ARGS="--config configs/quickstart.yaml --budgets 80 200 --seeds 0"

Steps of the operator are as many as last as long as a budget says, timed once for each config; the peers of a run get
as many as last as long as those. Each budget and seed is a run of its own in --out, resumed where it was interrupted;
its row is kept as JSON in --out/rows. `--tune` tries three learning rates of each peer on validation rows, at one
budget.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from harness.bench.problems import ROOT, cell, machine, run_in, train
from tasks.services.data.datasets import load_data, trajectory_files
from tasks.services.run.lock import owned
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from tasks.services.stages.evaluated import data_of, models_of
from tasks.services.stages.peers import peer_config, seconds_per_step
from tasks.services.stages.result_rows import read_row, row_of, write_row
from tasks.services.stages.training import train_stage_files
from ups_models.config.loading import load_config
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.evaluation.evaluate import evaluate
from ups_models.evaluation.result import read_result
from ups_models.peers import PEERS

CPU, OPERATOR = torch.device("cpu"), "operator"
ALONE = tuple(f"stages.{stage}.epochs=0" for stage in ("diff_residual", "consistency_distill", "steady_prior"))


def main() -> None:
    """Make every row that is missing, and print a table."""
    parser = argparse.ArgumentParser(prog="bench-peers", description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "quickstart.yaml")
    parser.add_argument("--budgets", type=int, nargs="+", default=[80, 200, 400, 800], help="CPU seconds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--peers", nargs="+", choices=[*PEERS], default=[*PEERS])
    parser.add_argument("--tune", action="store_true", help="learning rates of the peers, at the first budget and seed")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3], help="learning rates to try")
    parser.add_argument("--out", type=Path, default=Path("bench-peers"), help="folder of the runs and rows")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.tune:
        print(tuned(arguments))
        return
    rows = {(budget, seed): row(budget, seed, arguments) for budget in arguments.budgets for seed in arguments.seeds}
    print(table(rows, arguments.peers), flush=True)


def row(budget: int, seed: int, arguments: argparse.Namespace) -> Mapping[str, float]:
    """The figures of one budget and seed."""
    config, out = arguments.config, arguments.out
    name = f"{config.stem}-{budget}s-seed{seed}"
    kept = out / "rows" / f"{name}.json"
    if not kept.is_file():
        run = out / name
        steps = max(4, round(budget / seconds_of_a_step(arguments)))
        settings = [
            *ALONE,
            "stages.operator.epochs=1",
            f"stages.operator.steps_per_epoch={steps}",
            f"evaluations.peers=[{','.join(arguments.peers)}]",
        ]
        train(config, seed, run, *settings)
        command = f'make bench-peers ARGS="--config {config} --budgets {budget} --seeds {seed}"'
        write_row(kept, row_of(run_in(run), figures_of(run), command=command, machine=machine()))
    return read_row(kept).figures


def seconds_of_a_step(arguments: argparse.Namespace) -> float:
    """Of the operator's training, a mean over its unroll; timed once for each config."""
    path = arguments.out / f"{arguments.config.stem}-step.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        cfg = load_config(arguments.config, schema=PipelineConfig)
        scratch = run_in(arguments.out / f"{arguments.config.stem}-timed")
        (scratch.root / "data").mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(seconds_per_step(cfg, scratch, CPU)), "utf-8")
    return float(json.loads(path.read_text("utf-8")))


def figures_of(run: Path) -> dict[str, float]:
    """The errors of all, their intervals over trajectories, and what they were given."""
    result = read_result(run / "reports" / "full_eval.json")
    if result.rollout is None:
        raise SystemExit(f"{run}: nothing was evaluated")
    own = result.rollout.summary[OPERATOR]
    found = {
        "operator, nRMSE": own.mean,
        "operator, low": own.ci95[0],
        "operator, high": own.ci95[1],
        "operator, parameters": float(result.network.parameters) if result.network else 0.0,
    }
    for name, peer in result.peers.items():
        found |= {
            f"{name}, nRMSE": peer.mean,
            f"{name}, low": peer.ci95[0],
            f"{name}, high": peer.ci95[1],
            f"{name}, parameters": float(peer.parameters),
            f"{name}, steps": float(peer.steps),
            f"{name}, GFLOP a step of one field": peer.gflops,
            "operator, GFLOP a step of one field": peer.operator_gflops,
            "CPU s": peer.steps * peer.seconds_per_step,
        }
    best = min((peer.mean for peer in result.peers.values()), default=float("nan"))
    return found | {"operator / best peer": own.mean / best}


def tuned(arguments: argparse.Namespace) -> str:
    """The validation error of each peer with each learning rate, as a table."""
    budget, seed = arguments.budgets[0], arguments.seeds[0]
    cfg = load_config(arguments.config, [f"seed={seed}"], schema=PipelineConfig)
    scratch = run_in(arguments.out / f"{arguments.config.stem}-timed")
    (scratch.root / "data").mkdir(parents=True, exist_ok=True)
    load_data(cfg, scratch)
    rates: list[float] = arguments.rates
    lines = ["| peer | " + " | ".join(f"{rate:g}" for rate in rates) + " |", "|---" * (1 + len(rates)) + "|"]
    for name in arguments.peers:
        cells = [f"{error_with(name, rate, budget, cfg, scratch, arguments.out):.4g}" for rate in rates]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def error_with(name: str, rate: float, budget: int, cfg: PipelineConfig, scratch: RunDir, out: Path) -> float:
    """On validation rows, after so many CPU seconds."""
    files = trajectory_files(cfg, scratch)
    per_step = seconds_per_step(peer_config(cfg, name, files, steps=100), scratch, CPU)
    its = peer_config(cfg, name, files, steps=max(4, round(budget / per_step)))
    stage = its.stages.operator.model_copy(update={"lr": rate})
    its = its.model_copy(update={"stages": its.stages.model_copy(update={OPERATOR: stage})})
    run = run_in(out / "tuned" / f"{name}-{rate:g}")
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    if read_status(run.status).stage(OPERATOR).status != "completed":
        with owned(run) as held:
            train_stage_files(OPERATOR, its, held, fresh=True)
    models, settings = models_of(its, run, {OPERATOR: None}, CPU), EvalConfig(split="val", trajectories=64)
    result, _ = evaluate(its, settings, models, data_of(its, settings, run, models), device=CPU)
    return result.rollout.summary[OPERATOR].mean if result.rollout else float("nan")


def table(rows: Mapping[tuple[int, int], Mapping[str, float]], peers: Sequence[str]) -> str:
    """Budgets down, models across: the mean over seeds, and their range."""
    lines = [f"| CPU s | operator | {' | '.join(peers)} | operator / best peer |", "|---" * (len(peers) + 3) + "|"]
    for budget in dict.fromkeys(budget for budget, _ in rows):
        of_budget = [found for (one, _), found in rows.items() if one == budget]
        names = [f"{name}, nRMSE" for name in (OPERATOR, *peers)]
        cells = [cell([found[name] for found in of_budget if name in found]) for name in names]
        ratio = cell([found["operator / best peer"] for found in of_budget])
        lines.append(f"| {budget} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
