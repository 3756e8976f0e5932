"""The quickstart three times on fresh data: time, memory and every figure that the README quotes, with their spread.

    make bench-quickstart ARGS="--out docs/results/quickstart"

Each seed's figures are kept in --out as a row when it is done, and a seed whose row is there is not run again.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.bench.problems import ROOT, machine, run_in
from tasks.services.stages.result_rows import read_row, row_of, write_row

GIGABYTE_IN_KIB = 1_000_000_000 / 1024


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--out", type=Path, default=Path("bench-quickstart"), help="folder of the rows")
    arguments = parser.parse_args()
    columns = {}
    for seed in arguments.seeds:
        kept = arguments.out / f"{Path(arguments.config).stem}-seed{seed}.json"
        if not kept.is_file():
            with tempfile.TemporaryDirectory() as directory:
                figures = measure(Path(directory), seed, arguments.config)
                command = f'make bench-quickstart ARGS="--config {arguments.config} --seeds {seed}"'
                write_row(kept, row_of(run_in(Path(directory)), figures, command=command, machine=machine()))
        columns[seed] = read_row(kept).figures
        echo(f"seed {seed}: {columns[seed]['quickstart, wall (s)']:.0f} s")
    report(columns)


def measure(directory: Path, seed: int, config: str) -> dict[str, float]:
    """All figures of one seed."""
    pipeline = [sys.executable, str(ROOT / "flows" / "pipeline.py"), "--config", config, "--set", f"seed={seed}"]
    ups = [sys.executable, "-m", "flows.cli"]
    wall, peak = timed([*pipeline, "--auto-resume"], directory)
    figures = {
        "quickstart, wall (s)": wall,
        "quickstart, peak memory of a process (GB)": peak,
        "completed run again, wall (s)": timed([*pipeline, "--auto-resume"], directory)[0],
        "ups status, wall (s)": timed([*ups, "status"], directory)[0],
        "ups --help, wall (s)": timed([*ups, "--help"], directory)[0],
    }
    status = json.loads((directory / "checkpoints" / "stage_status.json").read_text("utf-8"))
    for name, record in {**status["stages"], **status["evaluations"]}.items():
        figures[f"{name} (s)"] = record["seconds"]
    evaluation = json.loads((directory / "reports" / "full_eval.json").read_text("utf-8"))
    summary = evaluation["rollout"]["summary"]
    figures["rollout nRMSE, median"] = summary["operator"]["median"]
    figures["rollout nRMSE of persistence"] = summary["persistence"]["mean"]
    figures["rollout nRMSE of the constant mean"] = summary["constant_mean"]["mean"]
    return figures | {check["name"]: check["value"] for check in evaluation["checks"]}


def timed(command: list[str], directory: Path) -> tuple[float, float]:
    """Wall time in seconds and peak resident memory in GB of a command that must succeed."""
    log = directory / "bench.log"
    with log.open("w") as output:
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=directory,
            stdout=output,
            stderr=output,
            env={**os.environ, "WANDB_MODE": "disabled", "PYTHONPATH": str(ROOT)},
        )
        _, code, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        raise SystemExit(log.read_text("utf-8")[-4000:])
    return wall, usage.ru_maxrss / GIGABYTE_IN_KIB


def report(columns: dict[int, dict[str, float]]) -> None:
    """A Markdown table: each seed, the mean, and the range."""
    echo(f"| figure | {' | '.join(f'seed {seed}' for seed in columns)} | mean | range |")
    echo("|---" * (len(columns) + 3) + "|")
    for name in next(iter(columns.values())):
        values = [column[name] for column in columns.values()]
        cells = [f"{value:.3g}" for value in values]
        spread = f"{min(values):.3g} to {max(values):.3g}"
        echo(f"| {name} | {' | '.join(cells)} | {statistics.mean(values):.3g} | {spread} |")


def echo(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
