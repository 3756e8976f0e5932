"""`python -m harness.trust.server`: the Prefect server dies at ten points of a small run; all work must be done."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows import ROOT
from harness.chaos.checks import differences, outcome, violations
from harness.chaos.prefect_stack import ControlRoom
from harness.chaos.workload import BRIEF, run_plainly
from harness.trust.away import away
from harness.trust.dying_server import DIED, POINTS
from tasks.services.run.paths import RunDir

WITHIN_S = 240
OWN, TEMPORARY = "own", "temporary"


@dataclass(frozen=True)
class Row:
    """What a run came to whose server died at a point."""

    server: str
    point: str
    code: int
    seconds: float
    warnings: int
    wrong: list[str]

    @property
    def well(self) -> bool:
        """Whether everything was done, and said in one line."""
        return self.code == 0 and self.warnings <= 1 and not self.wrong

    def __str__(self) -> str:
        found = "; ".join(self.wrong) or "all work done, same bits"
        head = f"{'well ' if self.well else 'WRONG'} {self.server:<9} {self.point:<28}"
        return f"{head} exit {self.code}, {self.warnings} warnings, {self.seconds:3.0f} s: {found}"


def main() -> int:
    """Run and tell."""
    parser = argparse.ArgumentParser(prog="harness.trust.server", description=__doc__)
    parser.add_argument("--points", type=int, default=len(POINTS), help="so many points, spread over all")
    parser.add_argument(
        "--away", type=float, metavar="SECONDS", help="only: a run under a worker, the server away so long"
    )
    parser.add_argument("--servers", nargs="*", choices=(OWN, TEMPORARY), default=[OWN, TEMPORARY])
    given = parser.parse_args()
    if given.away is not None:
        return away(given.away)
    step = max(1, len(POINTS) // given.points)
    with tempfile.TemporaryDirectory(prefix="trust-server-") as folder:
        rows = list(_rows(Path(folder), [*POINTS][step - 1 :: step][: given.points], given.servers))
    print(f"{sum(row.well for row in rows)} of {len(rows)} did all their work")
    return 0 if all(row.well for row in rows) else 1


def _rows(scratch: Path, points: list[str], servers: list[str]) -> Iterator[Row]:
    undisturbed = scratch / "undisturbed"
    run_plainly(BRIEF, undisturbed)
    expected = outcome(_run_in(undisturbed))
    home = scratch / "home"
    home.mkdir()
    for server in servers:
        for number, point in enumerate(points):
            with _room(home, server) as (environment, pid):
                row = trial(server, point, scratch / f"{server}{number}", expected, environment, pid)
            print(row, flush=True)
            yield row


@contextmanager
def _room(home: Path, server: str) -> Iterator[tuple[dict[str, str], int]]:
    """The environment of a run, and the process of its server; 0: it brings its own."""
    room = ControlRoom(home, {})
    if server == TEMPORARY:
        yield {name: value for name, value in room.environment.items() if name != "PREFECT_API_URL"}, 0
        return
    try:
        room.start_server()
        yield room.environment, room.server.pid if room.server is not None else 0
    finally:
        room.stop()


def trial(server: str, point: str, root: Path, expected: dict[str, str], environment: dict[str, str], pid: int) -> Row:
    """Run once with a server that dies at the point, and look at what is there."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "harness.trust.dying_server", point, str(pid), str(root)],
        env={**environment, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        cwd=root.parent,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    run = _run_in(root)
    wrong = violations(run, finished=True) + [f"{name} differs" for name in differences(outcome(run), expected)]
    lines = done.stderr.splitlines()
    wrong += ["a traceback"] if any("Traceback" in line for line in lines) else []
    wrong += [] if DIED in done.stderr else ["the server was not killed"]
    if wrong or done.returncode:
        print(done.stderr, file=sys.stderr)
    warnings = sum("WARNING" in line and "Prefect" in line for line in lines)
    return Row(server, point, done.returncode, time.monotonic() - began, warnings, wrong)


def _run_in(root: Path) -> RunDir:
    return RunDir.of(root, root / "checkpoints")


if __name__ == "__main__":
    sys.exit(main())
