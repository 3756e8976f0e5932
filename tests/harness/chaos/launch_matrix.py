"""`ups launch` under every fault of an emulated market; a table, and an exit code."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatch
from pathlib import Path

from flows.prefect.server import temporary_server
from harness.chaos import remote
from harness.chaos.__main__ import isolate
from harness.chaos.launch_matrix_cases import CASES
from harness.chaos.launch_matrix_runpod import RUNPOD_CASES
from harness.chaos.trial import Case, Row, arguments_of, run_case, server

OF = {"vast": CASES, "runpod": RUNPOD_CASES}
HEAD = (
    f"{'market and case':<42}{'exit':>10}{'machines':>10}{'at once':>9}{'left':>6}{'USD after':>11}  {'weights':<10}"
    f"{'s':>5}  what it said"
)


def live_through_all(cases: Sequence[Case], scratch: Path, jobs: int = 2) -> Iterator[Row]:
    """The rows as they come, `jobs` cases side by side."""
    references = {
        steps: remote.undisturbed(
            scratch / f"reference{steps}",
            remote.environment_in(scratch / f"reference{steps}") | server(),
            arguments_of(steps),
        )
        for steps in sorted({case.steps for case in cases if case.code == 0})
    }
    with ThreadPoolExecutor(jobs) as pool:
        rows = [
            pool.submit(run_case, case, scratch / f"case{number}", references.get(case.steps, {}))
            for number, case in enumerate(cases)
        ]
        for row in as_completed(rows):
            yield row.result()


def line_of(row: Row) -> str:
    """One line of the table."""
    case = row.case
    weights = ("identical" if row.identical else "DIFFERENT") if case.code == 0 else "-"
    after = "-" if case.left else f"{row.usd_after:.6f}"
    mark = "" if not row.wrong else f"  <-- {'; '.join(row.wrong)}"
    return (
        f"{f'{case.market} {case.name}':<42}{f'{row.code} ({case.code})':>10}{row.machines:>10}{row.most_live:>9}"
        f"{row.left:>6}{after:>11}"
        f"  {weights:<10}{row.seconds:>5.0f}  {row.said}{mark}"
    )


def tell(row: Row) -> None:
    """A row, and all that is known of one that is not as expected."""
    print(line_of(row), flush=True)
    for number, log in enumerate(row.logs):
        print(f"--- {row.case.name}: {f'machine {number}' if number else 'launch'}\n{log}\n", flush=True)


def main() -> int:
    """Run what was asked for; 0 when all is as expected."""
    parser = argparse.ArgumentParser(prog="harness.chaos.launch_matrix", description=__doc__)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="NAME", help="these cases; outbid* is a pattern")
    parser.add_argument("--jobs", type=int, default=2, help="cases side by side")
    parser.add_argument("--market", nargs="+", choices=list(OF), default=list(OF), help="where machines are rented")
    parser.add_argument("--list", action="store_true", help="name the cases and what they mean")
    arguments = parser.parse_args()
    cases = [case for market in arguments.market for case in OF[market]]
    chosen = [case for case in cases if any(fnmatch(case.name, pattern) for pattern in arguments.only)]
    if not chosen:
        parser.error("no such case; see --list")
    if arguments.list:
        print("\n".join(f"{case.market:<8}{case.name:<34}{case.means}" for case in chosen))
        return 0
    began, good = time.monotonic(), 0
    signal.signal(signal.SIGINT, signal.default_int_handler)  # children of a background shell would never hear it
    with tempfile.TemporaryDirectory(prefix="market-") as directory:
        isolate(Path(directory))
        print(HEAD, flush=True)
        with temporary_server():
            for row in live_through_all(chosen, Path(directory), arguments.jobs):
                tell(row)
                good += not row.wrong
    print(f"{good} of {len(chosen)} as expected, in {time.monotonic() - began:.0f} s")
    return 0 if good == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
