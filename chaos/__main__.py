"""`python -m chaos`: kill the pipeline, restart it, compare; a table for a person, an exit code for CI."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from chaos.campaign import Campaign, Tally, flip_bit
from chaos.enumeration import enumerate_crash_points
from chaos.mutations import MUTATIONS
from chaos.workload import request_for
from flows.request import resolve
from flows.server import quiet_prefect, temporary_server
from tasks.services.planning import plan
from ups_models.specs import SPECS


def main() -> int:
    """Run what was asked for; 0 when nothing was found, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="processes to end, SIGTERM included")
    parser.add_argument("--flow-share", type=float, default=0.2, help="share of them that are real flow processes")
    parser.add_argument("--flips", type=int, default=100, help="single bits to flip in finished checkpoints")
    parser.add_argument("--pairs", type=int, default=2, help="pairs of processes to start at the same moment")
    parser.add_argument("--enumerate-every", type=int, default=0, help="try every n-th crash point; 0: none")
    parser.add_argument("--mutations", action="store_true", help="switch off each protection in turn instead")
    parser.add_argument("--only", choices=list(MUTATIONS), help="of the protections, this one alone")
    parser.add_argument("--seed", type=int, default=0, help="seed of the kills")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
        if arguments.mutations:
            return mutations(Path(scratch), arguments.seed, arguments.only)
        quiet_prefect()
        with temporary_server():
            return campaign(Path(scratch), arguments)


def campaign(scratch: Path, arguments: argparse.Namespace) -> int:
    """All parts of one harness run."""
    started = time.monotonic()
    harness = Campaign(scratch, arguments.seed, flow_share=arguments.flow_share)
    harness.undisturbed()
    harness.kill(arguments.kills)
    harness.pairs(arguments.pairs)
    tally = harness.tally
    flips, noticed = flipped_bits(scratch / "undisturbed", arguments.flips, random.Random(arguments.seed))
    tally.flips_noticed = noticed
    if noticed < flips:
        tally.trouble.append(f"{flips - noticed} of {flips} flipped bits were not noticed before use")
    points = 0
    if arguments.enumerate_every:
        points, found = enumerate_crash_points(scratch, harness.reference, every=arguments.enumerate_every)
        tally.trouble += found
    print_table(tally, flips, points, time.monotonic() - started)
    for text in tally.trouble:
        say(f"  {text}")
    if tally.trouble:
        say(f"replay: python -m chaos --seed {arguments.seed} --kills {arguments.kills}")
        say((scratch / "children.log").read_text("utf-8")[-3000:])
    return 1 if tally.trouble else 0


def flipped_bits(root: Path, count: int, rng: random.Random) -> tuple[int, int]:
    """Flip bits of a finished run one at a time: how many, and how many the plan noticed before any use."""
    job = resolve(request_for(root))
    noticed = 0
    for _ in range(count):
        stage = rng.choice(list(SPECS))
        path = job.run.checkpoint(rng.choice(SPECS[stage].files))
        whole = path.read_bytes()
        flip_bit(path, rng)
        actions = {decision.stage: decision.action for decision in plan(job.cfg, job.run, job.policy)}
        noticed += actions[stage] == "train"
        path.write_bytes(whole)
    return count, noticed


def mutations(scratch: Path, seed: int, only: str | None) -> int:
    """One campaign for each protection that is switched off; every one must end red."""
    green = []
    chosen = {name: prepare for name, prepare in MUTATIONS.items() if only in (None, name)}
    for number, (name, prepare) in enumerate(chosen.items()):
        directory = scratch / f"mutation{number}"
        directory.mkdir()
        harness = Campaign(directory, seed, prepare=prepare)
        harness.undisturbed()
        harness.pairs(1)
        budget = 0
        while not harness.tally.trouble and budget < 64:
            budget += 8
            harness.kill(budget)
        red = bool(harness.tally.trouble)
        say(f"{name:<26} {'red' if red else 'GREEN'}   {harness.tally.trouble[0] if red else 'nothing was noticed'}")
        if not red:
            green.append(name)
    say(f"{len(chosen) - len(green)} of {len(chosen)} mutations noticed")
    return 1 if green else 0


def print_table(tally: Tally, flips: int, points: int, seconds: float) -> None:
    """What was counted."""
    lost = tally.steps_lost or [0]
    rows = [
        ("SIGKILLs", tally.kills),
        ("SIGTERMs", tally.terms),
        ("resumes", tally.resumes),
        ("steps lost per kill, mean", f"{sum(lost) / len(lost):.2f}"),
        ("steps lost per kill, max", max(lost)),
        ("steps lost per SIGTERM, max", max(tally.term_steps_lost or [0])),
        ("runs", tally.runs + tally.pairs),
        ("runs with weights, figures and history identical", tally.identical),
        ("bits flipped in passing", tally.flips),
        ("bits flipped in finished checkpoints", flips),
        ("  noticed before use", tally.flips_noticed),
        ("pairs started together", tally.pairs),
        ("crash points tried one by one", points),
        ("damaged, stray, lost or different", len(tally.trouble)),
        ("seconds", f"{seconds:.0f}"),
    ]
    for label, value in rows:
        say(f"{label:<50} {value}")


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
