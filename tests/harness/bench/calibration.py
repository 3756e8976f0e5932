"""Who forecasts best with uncertainty: teacher, students, a Gaussian, an operator given the same compute.

    make bench-calibration ARGS="--config configs/quickstart.yaml --seeds 0 1 2"

All candidates of a seed share one operator and one diffusion. `matched` is an operator alone that was trained for as
long as operator and tuning together. Each candidate is a run of its own in --out, resumed where it was interrupted;
its row is kept as JSON in --out/rows.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from harness.bench.problems import ROOT, figure_table, machine, run_in
from tasks.services.data.datasets import load_data
from tasks.services.run.code_version import code_version
from tasks.services.run.status import read_status
from tasks.services.stages.evaluated import data_of, models_of
from tasks.services.stages.result_rows import ResultRow, read_row, write_row
from ups_models.config.loading import load_config
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.evaluation.evaluate import evaluate
from ups_models.evaluation.forecasts import Forecasts
from ups_models.evaluation.parts import HORIZONS
from ups_models.evaluation.result import EvaluationResult
from ups_models.evaluation.rollout import rollout

CPU, SHARED, MATCHED, CPU_SECONDS = torch.device("cpu"), "shared", "matched", "cpu-seconds.json"
STUDENT = "stages.consistency_distill"
CANDIDATES: Mapping[str, Sequence[str]] = {
    "distilled": (f"{STUDENT}.tuned_share=0",),
    "distilled, then tuned": (f"{STUDENT}.tuned_share=0.6",),
    "CRPS alone": (f"{STUDENT}.tuned_share=1",),
    "CRPS alone, operator fixed": (f"{STUDENT}.tuned_share=1", f"{STUDENT}.tune_operator=false"),
}
"""What the student of each has that the config has not."""
LEVELS = ("50", "80", "90")


def main() -> None:
    """Make every row that is missing, and print a table."""
    parser = argparse.ArgumentParser(prog="bench-calibration", description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "quickstart.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=[*CANDIDATES], default=[*CANDIDATES])
    parser.add_argument("--trajectories", type=int, default=64)
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument("--teacher", action="store_true", help="also roll out the teacher, which takes long")
    parser.add_argument("--out", type=Path, default=Path("bench-calibration"), help="folder of the runs and rows")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[Mapping[str, float]]] = {}
    for seed in arguments.seeds:
        for name, row in rows_of(seed, arguments).items():
            rows.setdefault(name, []).append(row)
    print(figure_table(rows), flush=True)


def rows_of(seed: int, arguments: argparse.Namespace) -> dict[str, Mapping[str, float]]:
    """The figures of every candidate of one seed."""
    config, out = arguments.config, arguments.out
    shared = out / f"{config.stem}-seed{seed}-{SHARED}"
    kept = out / "rows"
    found = {}
    for name in arguments.only:
        path = kept / f"{config.stem}-{slug(name)}-seed{seed}.json"
        if not path.is_file():
            (shared / "data").mkdir(parents=True, exist_ok=True)
            load_data(load_config(config, [f"seed={seed}"], schema=PipelineConfig), run_in(shared))
            train(config, seed, shared, "operator")
            train(config, seed, shared, "diff_residual")
            run = out / f"{config.stem}-seed{seed}-{slug(name)}"
            if not run.is_dir():
                shutil.copytree(shared, run)
            train(config, seed, run, "consistency_distill", *CANDIDATES[name])
            result = evaluated(run, arguments)
            for sampler, figures in by_sampler(result, cpu_seconds(run, "consistency_distill")).items():
                write(kept / f"{config.stem}-{slug(own(name, sampler))}-seed{seed}.json", figures, arguments, seed)
        for one in sorted(kept.glob(f"{config.stem}-*-seed{seed}.json")):
            found[one.stem.removeprefix(f"{config.stem}-").removesuffix(f"-seed{seed}")] = read(one)
    found[MATCHED] = matched(seed, arguments, found)
    return {name: with_matched(row, found[MATCHED]) for name, row in found.items()}


def own(name: str, sampler: str) -> str:
    """What a sampler of a candidate is called: the student is the candidate, the others are the same in all."""
    return name if sampler == "consistency_1" else sampler


def matched(seed: int, arguments: argparse.Namespace, found: Mapping[str, Mapping[str, float]]) -> Mapping[str, float]:
    """The operator alone, trained for as long as operator and tuning together."""
    config, out = arguments.config, arguments.out
    path = out / "rows" / f"{config.stem}-{MATCHED}-seed{seed}.json"
    if not path.is_file():
        shared = out / f"{config.stem}-seed{seed}-{SHARED}"
        cfg = load_config(shared / "config.yaml", schema=PipelineConfig)
        tuning = max(row["tuning, CPU s"] for row in found.values() if "tuning, CPU s" in row)
        steps = round(cfg.stages.operator.total_steps * (1 + tuning / cpu_seconds(shared, "operator")))
        run = out / f"{config.stem}-seed{seed}-{MATCHED}"
        run.mkdir(parents=True, exist_ok=True)
        shutil.copytree(shared / "data", run / "data", dirs_exist_ok=True)
        epochs = max(1, round(steps / cfg.stages.operator.steps_per_epoch))
        train(config, seed, run, "operator", f"stages.operator.epochs={epochs}")
        result = evaluated(run, arguments)
        error = result.rollout.summary["operator"].mean if result.rollout else float("nan")
        figures = {"MAE of one forecast": mae_of(run, arguments), "rollout nRMSE": error, "operator steps": steps}
        write(path, figures, arguments, seed)
    return read(path)


def mae_of(run: Path, arguments: argparse.Namespace) -> float:
    """Of rollouts of the operator, on the trajectories of the ensembles."""
    cfg = load_config(run / "config.yaml", schema=PipelineConfig)
    models = models_of(cfg, run_in(run), {"operator": None}, CPU)
    settings = settings_of(arguments)
    forecasts = Forecasts(cfg, settings, models, data_of(cfg, settings, run_in(run), models), CPU)
    case, chosen = forecasts.case, forecasts.ensemble_rows
    if case is None:
        raise SystemExit(f"{run}: has no operator")
    u = case.u[:, : case.steps + 1][chosen]
    found = rollout(
        case.operator, u[:, 0], case.parameters[chosen], steps=case.steps, reencode_every=case.reencode_every
    )
    return float((found - u[:, 1:]).abs().mean())


def settings_of(arguments: argparse.Namespace) -> EvalConfig:
    """As many trajectories and members as the bars ask for, on test rows."""
    return EvalConfig(
        split="test",
        trajectories=max(128, arguments.trajectories),
        ensemble_trajectories=arguments.trajectories,
        ensemble_members=arguments.members,
        one_step_pairs=256,
        student_steps=(1,),
        teacher_rollouts=arguments.teacher,
    )


def evaluated(run: Path, arguments: argparse.Namespace) -> EvaluationResult:
    """Of what the run has trained."""
    cfg = load_config(run / "config.yaml", schema=PipelineConfig)
    trained = {name: None for name, one in read_status(run_in(run).status).stages.items() if one.status == "completed"}
    models, settings = models_of(cfg, run_in(run), trained, CPU), settings_of(arguments)
    return evaluate(cfg, settings, models, data_of(cfg, settings, run_in(run), models), device=CPU)[0]


def by_sampler(result: EvaluationResult, seconds: float) -> dict[str, dict[str, float]]:
    """The figures of every sampler that was rolled out, and of the operator alone."""
    ensembles, rollout = result.probabilistic_rollout, result.rollout
    if ensembles is None or rollout is None:
        raise SystemExit("no ensembles were evaluated")
    alone = {"MAE of one forecast": ensembles.operator["mae"], "rollout nRMSE": rollout.summary["operator"].mean}
    found: dict[str, dict[str, float]] = {"operator": alone}
    for name, sampler in ensembles.samplers.items():
        scores = sampler.scores
        found[name] = {
            "CRPS": scores["crps"],
            "CRPS / MAE of one forecast": scores["crps"] / ensembles.operator["mae"],
            "nRMSE of the mean / of one forecast": scores["ensemble_mean_nrmse"] / ensembles.operator["nrmse"],
            "evaluations a step": float(sampler.nfe),
            "correlation time 0.8": rollout.correlation_time["0.8"],
        }
        if name == "consistency_1":
            found[name]["tuning, CPU s"] = seconds
        for steps in HORIZONS:
            if str(steps) in sampler.horizons:
                at = sampler.horizons[str(steps)].scores
                found[name][f"spread / skill after {steps}"] = at["spread_skill"]
                found[name] |= {f"coverage {level} % after {steps}": at[f"coverage/{level}"] for level in LEVELS}
    return found


def with_matched(row: Mapping[str, float], other: Mapping[str, float]) -> Mapping[str, float]:
    """The row, with its CRPS over the error of an operator that was given the same compute."""
    if "CRPS" not in row:
        return row
    return {**row, "CRPS / MAE of the matched operator": row["CRPS"] / other["MAE of one forecast"]}


def cpu_seconds(run: Path, stage: str) -> float:
    """What a stage's training took, its start included; data were solved before."""
    return float(json.loads((run / CPU_SECONDS).read_text("utf-8"))[stage])


def train(config: Path, seed: int, run: Path, stage: str, *settings: str) -> None:
    """One stage, as a user would; the same command resumes it."""
    command = [sys.executable, "-m", "flows.cli", "train", "--config", str(config), "--stage", stage, "--auto-resume"]
    command += ["--skip-small-eval", "--skip-full-eval", "--run-dir", str(run)]
    command += [argument for setting in (f"seed={seed}", *settings) for argument in ("--set", setting)]
    environment = os.environ | {"WANDB_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, check=False, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{run}: {stage}: exit code {done.returncode}; the same command resumes it")
    path = run / CPU_SECONDS
    known = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({stage: after.ru_utime - before.ru_utime} | known), "utf-8")


def write(path: Path, figures: Mapping[str, float], arguments: argparse.Namespace, seed: int) -> None:
    """A row of results."""
    command = f'make bench-calibration ARGS="--config {arguments.config} --seeds {seed}"'
    write_row(path, ResultRow(command=command, commit=code_version(), machine=machine(), figures=dict(figures)))


def read(path: Path) -> Mapping[str, float]:
    """Its figures."""
    return read_row(path).figures


def slug(name: str) -> str:
    """For a file."""
    return name.lower().replace(",", "").replace(" ", "-")


if __name__ == "__main__":
    main()
