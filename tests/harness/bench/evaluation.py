"""The full evaluation of a trained run by one process and by several: how much faster, and whether the digits agree.

make bench-evaluation ARGS="runs/a --processes 2"
"""

import argparse
import time
from pathlib import Path

import torch

from flows.requests.job import settings_of
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from tasks.services.stages.evaluated import data_of, models_of
from tasks.services.stages.evaluators import evaluators
from ups_models.config.loading import load_config
from ups_models.config.schema import PipelineConfig
from ups_models.evaluation.evaluate import evaluate

NAME, CPU = "full_eval", torch.device("cpu")


def main() -> None:
    """Evaluate twice, and print."""
    parser = argparse.ArgumentParser(prog="bench-evaluation", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="directory of a trained run")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cfg = load_config(arguments.run / "config.yaml", schema=PipelineConfig)
    run = RunDir.of(arguments.run, cfg.checkpoint.dir)
    settings = settings_of(cfg, NAME, Path("configs") / f"{NAME}.yaml")
    stages = {name: None for name, record in read_status(run.status).stages.items() if record.status == "completed"}
    models = models_of(cfg, run, stages, CPU)
    data = data_of(cfg, settings, run, models)
    seconds, results = [], []
    for n_processes in (1, arguments.processes):
        with evaluators(NAME, cfg, settings, run, [*stages], n_processes) as ask:
            began = time.perf_counter()
            result, _ = evaluate(cfg, settings, models, data, device=CPU, ask=ask)
            seconds.append(time.perf_counter() - began)
        results.append(result.model_copy(update={"network": None}).to_json())  # which holds a time
    alone, together = seconds
    digits = "the same digits" if results[0] == results[1] else "OTHER DIGITS"
    print(f"one process {alone:.1f} s, {arguments.processes} {together:.1f} s: {alone / together:.2f} x, {digits}")


if __name__ == "__main__":
    main()
