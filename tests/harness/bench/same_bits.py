"""Whether the working tree trains and evaluates to the same bits as another revision, on this machine.

    make same-bits BASE=REVISION CONFIG=configs/quickstart.yaml ARGS="--perturb-seed"

With each of them the config's pipeline runs as a user starts it, is interrupted by SIGTERM in the middle of
diff_residual, and resumed; a copy of what the other revision had begun is resumed with the working tree too. Every
tensor of every checkpoint, every figure and array of both evaluations and every row of the loss history must be the
same to the bit. Exit code 1 on the smallest difference, where nothing is compared, and where the revision is not had.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.bench.comparison import OF_THE_DEFAULT, contents, differences
from harness.bench.revisions import FIRST_EDITION, ROOT, checked_out

STAGE = "diff_residual"
STOPPED = 75
ROWS, TRIES, POLL_S, LIMIT_S = 5, 5, 0.005, 7200.0
OTHER_SEED = "seed=20011"
OF_THE_USER = ("PREFECT_", "WANDB_", "UPS_")  # settings of this name are not handed on
SHOWN = 20


@dataclass(frozen=True)
class Tree:
    """Code that runs a config: the working tree or another revision."""

    name: str
    root: Path
    config: str
    settings: tuple[str, ...] = ()

    def half_way(self, run: Path, stage: str = STAGE) -> None:
        """Leave a run in a new directory that was interrupted in this stage, which is repeated if it was faster."""
        for _ in range(TRIES):
            shutil.rmtree(run, ignore_errors=True)
            run.mkdir(parents=True)
            code = self._run(run, interrupted_in=stage)
            record = stage_records(run).get(stage, {})
            if code == STOPPED and record.get("status") == "in_progress":
                print(f"{self.name}: interrupted in {stage} at step {record['step']}", flush=True)
                return
            if code not in (0, STOPPED):
                raise SystemExit(f"{self.name}: exit code {code}\n{_tail(run)}")
        raise SystemExit(f"{self.name}: {stage} ended before the signal {TRIES} times; give it more steps")

    def resume(self, run: Path) -> None:
        """Let an interrupted run finish; what was completed or begun must not be done again."""
        before = begun(run)
        code = self._run(run)
        if code:
            raise SystemExit(f"{self.name}: the resumed run ended with exit code {code}\n{_tail(run)}")
        again = [name for name, moment in before.items() if begun(run).get(name) != moment]
        if again:
            raise SystemExit(f"{self.name}: did not resume {run.name}, but began {', '.join(again)} again")

    def _run(self, run: Path, interrupted_in: str | None = None) -> int:
        """The exit code of flows/pipeline.py in this directory."""
        settings = [argument for setting in self.settings for argument in ("--set", setting)]
        script, config = self.root / "flows" / "pipeline.py", self.root / self.config
        environment = {name: value for name, value in os.environ.items() if not name.startswith(OF_THE_USER)}
        environment.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))  # a first start would measure
        environment |= {"PYTHONPATH": str(self.root), "PREFECT_HOME": str(run.parent / "prefect")}
        with _log(run).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, str(script), "--config", str(config), "--auto-resume", *settings],
                cwd=run,
                env={**environment, "WANDB_MODE": "disabled", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            try:
                if interrupted_in is not None:
                    while process.poll() is None and not _is_training(run, interrupted_in):
                        time.sleep(POLL_S)
                    process.send_signal(signal.SIGTERM)
                return process.wait(LIMIT_S)
            finally:
                process.kill()
                process.wait()


def stage_records(run: Path) -> dict[str, dict[str, Any]]:
    """What the run's status says of each stage."""
    path = run / "checkpoints" / "stage_status.json"
    stages: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8"))["stages"] if path.exists() else {}
    return stages


def begun(run: Path) -> dict[str, str]:
    """When each stage was begun for the first time: a stage that starts from nothing gets a new time."""
    return {name: record["started_at"] for name, record in stage_records(run).items() if "started_at" in record}


def _is_training(run: Path, stage: str) -> bool:
    path = run / "reports" / "metrics.jsonl"
    return path.exists() and path.read_text("utf-8").count(f'"{stage}"') >= ROWS


def _log(run: Path) -> Path:
    return run.with_suffix(".log")


def _tail(run: Path) -> str:
    return _log(run).read_text("utf-8", errors="replace")[-3000:]


def runs_of(there: Tree, here: Tree, folder: Path) -> dict[str, Path]:
    """The finished runs, by what was done to them; the first is what the others must equal."""
    theirs, ours, adopted = folder / "theirs", folder / "ours", folder / "adopted"
    there.half_way(theirs)
    shutil.copytree(theirs, adopted)
    there.resume(theirs)
    Tree(here.name, here.root, here.config).resume(adopted)
    here.half_way(ours)
    here.resume(ours)
    return {there.name: theirs, f"begun by {there.name}, resumed here": adopted, "here": ours}


def main() -> None:
    """Run everything, print one line a comparison, and end with exit code 1 where a bit differs."""
    parser = argparse.ArgumentParser(prog="same-bits", description=__doc__.splitlines()[0])
    parser.add_argument("--base", default=FIRST_EDITION, help="revision to compare with (default: %(default)s)")
    parser.add_argument("--config", default="configs/smoke.yaml", help="config to run (default: %(default)s)")
    parser.add_argument("--perturb-seed", action="store_true", help="run the working tree with another seed: must fail")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started ends with this process
    started, red = time.monotonic(), False
    with tempfile.TemporaryDirectory(prefix="same-bits-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        base = checked_out(arguments.base, folder / "base")
        there = Tree(arguments.base[:12], base, arguments.config)
        here = Tree("here", ROOT, arguments.config, (OTHER_SEED,) if arguments.perturb_seed else ())
        (first, reference), *others = runs_of(there, here, folder).items()
        expected, apart = contents(reference), OF_THE_DEFAULT if FIRST_EDITION.startswith(arguments.base) else None
        print(f"{f'compared with {first}':<40}" + "".join(f"{kind:>9}" for kind in expected) + f"{'differ':>9}")
        for title, run in others:
            found = differences(expected, contents(run), apart=apart)
            red |= bool(found)
            print(f"{title:<40}" + "".join(f"{len(expected[kind]):>9}" for kind in expected) + f"{len(found):>9}")
            more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
            for line in found[:SHOWN] + more:
                print(f"  {line}")
    print(f"same-bits: {'red' if red else 'green'}, {time.monotonic() - started:.0f} s")
    sys.exit(red)


if __name__ == "__main__":
    main()
