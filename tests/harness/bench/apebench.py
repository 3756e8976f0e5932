"""APEBench's protocol: KS, KdV and Burgers on 160 points, beside the medians that its authors published.

    make bench-apebench ARGS="--only ks --sizes published --seeds 0"

Training rows, test rows, steps and batches are theirs; a row is one training, and is kept as JSON in --out/rows. What
is not their protocol: our optimiser (AdamW, whose averaged weights are evaluated); our losses beside the forecast's
own; windows shifted and, where the equation allows, mirrored at random; the mean kept exactly; fields from random
numbers of our own; and of the size `free` also the unroll and the network's size.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.bench.problems import figure_table, machine, run_in, train
from tasks.services.run.status import read_status
from tasks.services.stages.result_rows import read_row, row_of, write_row
from ups_models.config.loading import load_config
from ups_models.config.schema import PipelineConfig
from ups_models.evaluation import metrics
from ups_models.evaluation.result import read_result
from ups_models.surrogate import load_surrogate

FOLDER = Path("configs") / "bench" / "apebench"
"""Below the repository, where every command of make runs: what a config names there is found from there."""
SIZES = ("published", "free")
PUBLISHED: Mapping[str, float] = {"ks": 0.242, "kdv": 0.077, "burgers": 0.0128}
"""GMean100 of the best architecture of each problem, median of 50 seeds: tables of generalized-pde-emulator."""
TEST_ROWS, TEST_STEPS, TEST_SEED, SCORED_STEPS = 30, 200, 773, 100


def main() -> None:
    """Make every row that is missing, and print a table."""
    parser = argparse.ArgumentParser(prog="bench-apebench", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[*PUBLISHED], default=[*PUBLISHED])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--out", type=Path, default=Path("bench-apebench"), help="folder of the runs and rows")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for size in arguments.sizes:
        for name in arguments.only:
            rows = [row(name, size, seed, arguments.out) for seed in arguments.seeds]
            print(f"### {name}, {size}\n\n{figure_table({f'{len(rows)} seeds': rows})}\n", flush=True)


def row(name: str, size: str, seed: int, out: Path) -> Mapping[str, float]:
    """The figures of one training."""
    kept = out / "rows" / f"{name}-{size}-seed{seed}.json"
    if not kept.is_file():
        run, config = out / f"{name}-{size}-seed{seed}", FOLDER / f"{size}.yaml"
        train(config, seed, run, f"data.problem={FOLDER / 'problems.py'}:{name.upper()}")
        command = f'make bench-apebench ARGS="--only {name} --sizes {size} --seeds {seed}"'
        write_row(kept, row_of(run_in(run), figures_of(run, name), command=command, machine=machine()))
    return read_row(kept).figures


def figures_of(run: Path, name: str) -> dict[str, float]:
    """The score of a run and what it cost."""
    errors = mean_errors(run)
    network = read_result(run / "reports" / "full_eval.json").network
    record = read_status(run_in(run).status).stages["operator"]
    score = gmean(errors[:SCORED_STEPS])
    return {
        "GMean100": score,
        "GMean100, best published": PUBLISHED[name],
        "GMean100 / best published": score / PUBLISHED[name],
        "nRMSE after 1 step": float(errors[0]),
        "nRMSE after 100 steps": float(errors[SCORED_STEPS - 1]),
        "parameters": float(network.parameters) if network else 0.0,
        "training of the operator (s)": record.seconds or 0.0,
    }


def mean_errors(run: Path) -> Tensor:
    """Mean nRMSE over the test rows of a run's problem after each step, (TEST_STEPS,)."""
    cfg = load_config(run / "config.yaml", schema=PipelineConfig)
    how = cfg.data.problem.how()
    u0 = how.initial(TEST_ROWS, cfg.data.grid, {}, np.random.default_rng(TEST_SEED))
    truth = how.solve(u0, {}, [float(step) for step in range(TEST_STEPS + 1)], None).float()
    found = torch.from_numpy(load_surrogate(run).rollout(truth[:, 0], steps=TEST_STEPS).u)
    return metrics.nrmse(found[:, 1:].flatten(2), truth[:, 1:].flatten(2)).mean(0)


def gmean(errors: Tensor) -> float:
    """The geometric mean over the steps. Koehler et al. 2024, sec. 3."""
    return float(errors.log().mean().exp())


if __name__ == "__main__":
    main()
