"""`make trust`: nothing but the work decides whether the work goes on, and no wrong result ends well, as a table."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A module of this package, how it is asked for everything, and for a sample that CI can wait for."""

    figure: str
    module: str
    whole: tuple[str, ...] = ()
    sample: tuple[str, ...] = ()


PARTS = {
    "cancels": Part(
        "cancelled in ten phases, UI and API; suspended", "cancels", (), ("--cancels", "1", "--suspends", "1")
    ),
    "server": Part("server killed at ten points, its own and a temporary one", "server", (), ("--points", "1")),
    "away": Part("server away for ten minutes", "server", ("--away", "600"), ("--away", "20")),
    "rows": Part("W&B rows after kills right after a stage", "rows", (), ("--kills", "2")),
    "damage": Part("every file of a run, every kind of damage", "damage", (), ("--every", "29")),
    "mixed": Part("parts of two runs put together", "mixed", (), ("--every", "29")),
    "hostile": Part("fuzzed HDF5 headers, archives and texts", "hostile_files", ("60",), ("12",)),
}


def main() -> int:
    """Run the parts one after another, say what each came to; 0 when all are well."""
    parser = argparse.ArgumentParser(prog="harness.trust", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=tuple(PARTS), default=list(PARTS))
    parser.add_argument("--sample", action="store_true", help="few cases of each, in minutes")
    given = parser.parse_args()
    wrong = []
    for name in given.only:
        part, began = PARTS[name], time.monotonic()
        print(f"--- {part.figure}", flush=True)
        arguments = part.sample if given.sample else part.whole
        command = [sys.executable, "-m", f"harness.trust.{part.module}", *arguments]
        code = subprocess.run(command, check=False).returncode
        print(f"{'well' if code == 0 else 'WRONG'}  {part.figure}: {time.monotonic() - began:.0f} s", flush=True)
        wrong += [name] if code else []
    which = f"; wrong: {', '.join(wrong)}" if wrong else ""
    print(f"{len(given.only) - len(wrong)} of {len(given.only)} parts well{which}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
