"""`python -m harness.chaos`: kill the pipeline, restart it, compare; a table for a person, an exit code for CI."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from flows.prefect.server import quiet_prefect, temporary_server
from harness.chaos.campaign import Campaign
from harness.chaos.counts import Counts, table
from harness.chaos.enumeration import enumerate_crash_points
from harness.chaos.faulted_run import Setting
from harness.chaos.uploads import kill_during_uploads
from harness.chaos.worker import work_pool


def main() -> int:
    """Run what was asked for; 0 when nothing was found, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="harness.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs; a fifth as many SIGTERMs come on top")
    parser.add_argument("--jobs", type=int, default=2, help="runs that live side by side")
    parser.add_argument("--flow-share", type=float, default=0.22, help="share of attempts that are a real flow process")
    parser.add_argument("--worker-share", type=float, default=0.03, help="share of attempts under a Prefect worker")
    parser.add_argument("--flips", type=int, default=100, help="single bits to flip in finished checkpoints")
    parser.add_argument("--pairs", type=int, default=2, help="pairs of processes to start at the same moment")
    parser.add_argument("--enumerate-every", type=int, default=0, help="try every n-th crash point; 0: none")
    parser.add_argument("--uploads", type=int, default=0, help="tracked runs to kill while they upload to W&B")
    parser.add_argument("--replay", type=int, help="the number of one run to repeat")
    parser.add_argument("--seed", type=int, default=0, help="seed of the kills")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as directory:
        scratch = Path(directory)
        isolate(scratch)
        with temporary_server():
            return campaign(scratch, arguments)


def campaign(scratch: Path, arguments: argparse.Namespace) -> int:
    """All parts of one harness run."""
    started = time.monotonic()
    log = scratch / "children.log"
    with work_pool(log) if arguments.worker_share and arguments.kills else nullcontext() as deployment:
        shares = {"flow_share": arguments.flow_share, "worker_share": arguments.worker_share}
        harness = Campaign(Setting(scratch, arguments.seed, deployment=deployment, **shares), arguments.jobs)
        harness.undisturbed()
        if arguments.replay is not None:
            harness.replay(arguments.replay)
        else:
            harness.kill(arguments.kills)
    harness.pairs(arguments.pairs)
    harness.flip_finished(arguments.flips)
    if arguments.enumerate_every:
        harness.counts.add(enumerate_crash_points(scratch, every=arguments.enumerate_every, jobs=arguments.jobs))
    if arguments.uploads:
        harness.counts.add(kill_during_uploads(scratch, arguments.uploads, arguments.seed))
    echo(table(harness.counts, time.monotonic() - started))
    if harness.counts.trouble:
        tell(harness.counts, arguments, log)
    return 1 if harness.counts.trouble else 0


def tell(counts: Counts, arguments: argparse.Namespace, log: Path) -> None:
    """What went wrong, how to see it again, and what the processes said last."""
    for text in counts.trouble:
        echo(f"  {text}")
    shares = f"--flow-share {arguments.flow_share} --worker-share {arguments.worker_share}"
    echo(f"replay one run: PYTHONPATH=tests python -m harness.chaos --seed {arguments.seed} {shares} --replay NUMBER")
    echo(log.read_text("utf-8")[-3000:] if log.exists() else "")


def echo(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def isolate(scratch: Path) -> None:
    """A Prefect of our own and no W&B: the user's server, database, profile and key stay out of it."""
    os.environ.pop("PREFECT_API_URL", None)
    os.environ["WANDB_MODE"] = "disabled"
    os.environ["PREFECT_HOME"] = str(scratch / "prefect")
    os.environ["OMP_NUM_THREADS"] = "1"
    quiet_prefect()


if __name__ == "__main__":
    sys.exit(main())
