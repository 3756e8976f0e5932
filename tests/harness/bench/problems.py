"""What the pipeline reaches on other problems, seed by seed, beside trivial forecasts: every figure with its spread.

    make bench-problems ARGS="--only ks1d --seeds 0 1 2"

Each config of configs/bench (or --config FILE) is a run of its own in --out, resumed where it was interrupted; its
figures are kept as JSON in --out/rows when it is done, and a run whose row is there is not made again.
`extrapolation` is u_0 + k (u_1 - u_0), which has seen one field more than the operator.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.services.data.datasets import load_data
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from tasks.services.stages.result_rows import read_row, row_of, write_row
from ups_models.config.loading import load_config
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.data.fields import Fields
from ups_models.data.split import split_rows
from ups_models.evaluation import metrics
from ups_models.evaluation.inputs import evenly_spaced
from ups_models.surrogate import load_surrogate

ROOT = Path(__file__).resolve().parents[3]
BENCH = ROOT / "configs" / "bench"
Row = Mapping[str, float]
BARS: tuple[tuple[str, str], ...] = (
    ("rollout nRMSE / persistence", "<= 0.3"),
    ("rollout nRMSE / best of constant mean and extrapolation", "<= 0.5"),
    ("spectrum, largest deviation up to 99.9 % of the energy", "<= 0.1 (ks1d)"),
    ("correlation time 0.9", ">= 40 (ks1d)"),
    ("one-step CRPS / operator MAE", "<= 0.75"),
    ("one-step nCRPS / same-scale Gaussian", "<= 0.95"),
    ("one-step spread/skill", "0.8 to 1.25"),
    *((f"error at {nu:g} / alone", "<= 2") for nu in (0.001, 0.01, 0.1, 1.0)),
    ("member nRMSE", "<= 0.15"),
    ("CRPS / MAE of the mean", "<= 0.8"),
    ("coverage of 90 %", "0.85 to 0.95"),
    ("CRPS / error of a regression", "<= 0.85"),
    ("rollout nRMSE", "0.00416 published, of an FNO trained well (pdebench_burgers1d)"),
)


CHAOTIC: Mapping[str, tuple[float, float]] = {"ks1d": (20.0, 80.0), "kolmogorov2d": (2.0, 10.0)}
"""Problems in which a difference grows, and from when to when that is measured."""
ENERGY, SMALL, SOLUTIONS, GROWTH_TIMES = 0.999, 1e-7, 16, 41


def main() -> None:
    """Make every row that is missing, and print the tables."""
    parser = argparse.ArgumentParser(prog="bench-problems", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", help="names of configs in configs/bench")
    parser.add_argument("--config", type=Path, nargs="+", help="other configs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("bench-problems"), help="folder of the runs and rows")
    text = "also train a model of each parameter alone, where a config has several, and compare"
    parser.add_argument("--alone", action="store_true", help=text)
    arguments = parser.parse_args()
    configs = arguments.config or [path for path in sorted(BENCH.glob("*.yaml")) if chosen(path, arguments.only)]
    for config in configs:
        rows = [row(config, seed, arguments.out) for seed in arguments.seeds]
        if arguments.alone:
            pairs = zip(arguments.seeds, rows, strict=True)
            rows = [beside_those_alone(config, seed, arguments.out, found) for seed, found in pairs]
        print(table(config.stem, arguments.seeds, rows), flush=True)


def chosen(path: Path, only: Sequence[str] | None) -> bool:
    """Whether a config was asked for."""
    return only is None or path.stem in only


def beside_those_alone(config: Path, seed: int, out: Path, together: Row) -> Row:
    """The metrics of a model of several parameters, and its errors over those of models of each alone, which are kept.

    All take the same steps, on the same number of rows.
    """
    values = load_config(config, schema=PipelineConfig).data.generate.parameters
    numbers = [value for value in values if isinstance(value, float)]
    found: dict[str, float] = {}
    for value in numbers if len(numbers) > 1 else ():
        alone = row(config, seed, out, value)[f"error at {value:g}"]
        found |= {
            f"error at {value:g}, alone": alone,
            f"error at {value:g} / alone": together[f"error at {value:g}"] / alone,
        }
    kept = kept_row(out, config, seed)
    whole = read_row(kept)
    write_row(kept, whole.model_copy(update={"figures": {**whole.figures, **found}}))
    return {**together, **found}


def kept_row(out: Path, config: Path, seed: int, parameter: float | None = None) -> Path:
    """Where the row of a run is kept."""
    alone = "" if parameter is None else f"-alone{parameter:g}"
    return out / "rows" / f"{config.stem}{alone}-seed{seed}.json"


def row(config: Path, seed: int, out: Path, parameter: float | None = None) -> Row:
    """The figures of one run, made or resumed where they are not there yet; of one parameter alone, if given."""
    kept = kept_row(out, config, seed, parameter)
    if not kept.is_file():
        run = out / kept.stem
        train(config, seed, run, *([] if parameter is None else [f"data.generate.parameters=[{parameter}]"]))
        write_row(kept, row_of(run_in(run), metrics_of(run), **origin(config, seed)))
    return read_row(kept).figures


def origin(config: Path, seed: int) -> dict[str, str]:
    """What made a row, and where."""
    only = f"--only {config.stem}" if config.parent == BENCH else f"--config {config}"
    return {
        "command": f'make bench-problems ARGS="{only} --seeds {seed}"',
        "machine": machine(),
    }


def machine() -> str:
    """Where figures were made, in words."""
    return f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, PyTorch {torch.__version__}"


def train(config: Path, seed: int, run: Path, *settings: str) -> None:
    """As a user would; the same command resumes it."""
    command = [sys.executable, "-m", "flows.cli", "train", "--config", str(config)]
    command += [argument for setting in (f"seed={seed}", *settings) for argument in ("--set", setting)]
    environment = os.environ | {"WANDB_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--auto-resume", "--run-dir", str(run)], env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{run}: exit code {done.returncode}; the same command resumes it")


def metrics_of(run: Path) -> dict[str, float]:
    """What the full evaluation of a run found, as the bars ask for it, and what it took."""
    cfg = load_config(run / "config.yaml", schema=PipelineConfig)
    result: dict[str, Any] = json.loads((run / "reports" / "full_eval.json").read_text("utf-8"))
    seconds = sum(record.seconds or 0.0 for record in read_status(run_in(run).status).stages.values())
    if "rollout" not in result:
        return _steady(result["darcy"]) | {"training, s": seconds}
    summary, network = result["rollout"]["summary"], result["network"]
    operator, persistence, constant = (summary[name]["mean"] for name in ("operator", "persistence", "constant_mean"))
    test, steps = fields_of_test(cfg, run, result["trajectories"]), result["steps"]
    extrapolated = extrapolation(test, steps)
    found = {
        "dt": result["data"]["dt"],
        "steps": float(result["steps"]),
        "rollout nRMSE": operator,
        "of persistence": persistence,
        "of the constant mean": constant,
        "of extrapolation": extrapolated,
        "rollout nRMSE / persistence": operator / persistence,
        "rollout nRMSE / best of constant mean and extrapolation": operator / min(constant, extrapolated),
        "compression": network["compression"],
        "reconstruction nRMSE": network["reconstruction"],
        "training, s": seconds,
    }
    found["spectrum, largest deviation up to 99.9 % of the energy"] = spectrum_deviation(run, test, steps)
    if cfg.data.problem.name in CHAOTIC:
        found["Lyapunov time"] = lyapunov_time(test)
    found |= {f"error at {name}": it["mean"] for name, it in result["rollout"].get("by_parameter", {}).items()}
    found |= {f"correlation time {t}": it for t, it in result["rollout"].get("correlation_time", {}).items() if it}
    ensembles = result.get("probabilistic")
    if ensembles:
        diffusion, gaussian = ensembles["diffusion"], ensembles["gaussian"]
        found |= {
            "one-step CRPS / operator MAE": diffusion["crps"] / ensembles["operator"]["mae"],
            "one-step nCRPS / same-scale Gaussian": diffusion["ncrps"] / gaussian["ncrps"],
            "one-step spread/skill": diffusion["spread_skill"],
        }
    return found


def _steady(darcy: Mapping[str, Any]) -> dict[str, float]:
    """Of the steady prior: a member's error, and how well the members stand for it."""
    prior = darcy["steady_prior"]
    beside = darcy.get("regression", {}).get("mae")
    more = {} if beside is None else {"CRPS / error of a regression": prior["crps"] / beside}
    return {
        **more,
        "member nRMSE": prior["member_nrmse"],
        "of the mean field": darcy["mean_field"]["nrmse"],
        "CRPS / MAE of the mean": prior["crps"] / prior["mae_of_mean"],
        "coverage of 90 %": prior["coverage"]["90"],
        "spread/skill": prior["spread_skill"],
    }


def fields_of_test(cfg: PipelineConfig, run: Path, trajectories: int) -> Fields:
    """The test rows of an evaluation, chosen as it chooses them, from the last frame on that it was given."""
    data = load_data(cfg, run_in(run))
    test = data.select(split_rows(data.row, val=cfg.data.val, test=cfg.data.test).test)
    settings = EvalConfig.model_validate(cfg.evaluations.full_eval)
    return test.select(evenly_spaced(trajectories, len(test.row))).after(settings.given_frames - 1)


def extrapolation(test: Fields, steps: int) -> float:
    """Mean nRMSE of u_0 + k (u_1 - u_0) over test rows, averaged as an evaluation's summary is."""
    u = test.u[:, : steps + 1]
    k = torch.arange(1, steps + 1).view(1, -1, *[1] * (u.ndim - 2))
    guess = u[:, :1] + k * (u[:, 1:2] - u[:, :1])
    return float(metrics.nrmse(guess.flatten(2), u[:, 1:].flatten(2)).mean())


def spectrum_deviation(run: Path, test: Fields, steps: int) -> float:
    """max |predicted / true - 1| of the energies, up to the wave number below which 99.9 % of the true energy lie.

    Over all times of the rollouts, and all channels.
    """
    known: dict[str, Any] = {name: test.parameters[:, place] for place, name in enumerate(test.problem.defaults)}
    predicted = torch.from_numpy(load_surrogate(run).rollout(test.u[:, 0], steps=steps, **known).u[:, 1:])
    dimensions, grid = test.problem.dimensions, test.grid
    truth, found = (
        metrics.energy(u.flatten(-dimensions), grid).mean((0, 1, 2))[1:] for u in (test.u[:, 1 : steps + 1], predicted)
    )
    last = int(torch.searchsorted(truth.cumsum(0), ENERGY * truth.sum())) + 1
    return float((found[:last] / truth[:last] - 1).abs().max())


def lyapunov_time(test: Fields) -> float:
    """The time in which a small difference grows by e: the slope of its logarithm, over solutions from test fields."""
    problem, (begin, end) = test.problem, CHAOTIC[test.problem.name]
    u0 = test.u[:SOLUTIONS, 0].double()
    noise = torch.randn(u0.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if problem.conserved:
        noise -= noise.flatten(2).mean(-1).view(*noise.shape[:2], *[1] * problem.dimensions)
    parameters = test.values(0)
    times = torch.linspace(0, end, GROWTH_TIMES).tolist()
    one, other = (problem.how().solve(start, parameters, times, None) for start in (u0, u0 + SMALL * noise))
    growth = (other - one).flatten(2).norm(dim=-1).log().mean(0)
    chosen = [i for i, time in enumerate(times) if time >= begin]
    slope = np.polyfit([times[i] for i in chosen], [float(growth[i]) for i in chosen], 1)[0]
    return float(1 / slope)


def run_in(root: Path) -> RunDir:
    """The run in a directory."""
    return RunDir.of(root, root / "checkpoints")


def cell(values: Sequence[float]) -> str:
    """The mean, with the range where there are several."""
    if not values:
        return ""
    around = f" [{min(values):.3g}, {max(values):.3g}]" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3g}{around}"


def figure_table(columns: Mapping[str, Sequence[Row]]) -> str:
    """Columns of rows of several seeds across, figures down: the mean over seeds, and their range."""
    figures = list(dict.fromkeys(figure for rows in columns.values() for row in rows for figure in row))
    lines = [f"| figure | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for figure in figures:
        cells = [cell([row[figure] for row in rows if figure in row]) for rows in columns.values()]
        lines.append(f"| {figure} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table(name: str, seeds: Sequence[int], rows: Sequence[Row]) -> str:
    """One problem as Markdown: each seed, the mean, the range, and the bar where there is one."""
    bars = {figure: bar.partition(" (")[0] for figure, bar in BARS if "(" not in bar or f"({name})" in bar}
    lines = [f"### {name}", "", f"| figure | {' | '.join(f'seed {seed}' for seed in seeds)} | mean | range | bar |"]
    lines.append("|---" * (len(seeds) + 4) + "|")
    for figure in rows[0]:
        values = [one[figure] for one in rows if figure in one]
        spread = f"{statistics.fmean(values):.3g} | {min(values):.3g} to {max(values):.3g}"
        cells = " | ".join(f"{value:.3g}" for value in values)
        lines.append(f"| {figure} | {cells} | {spread} | {bars.get(figure, '')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
