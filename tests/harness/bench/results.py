"""The page of what was reached, made from the rows that were committed: `make results`."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from harness.bench.problems import ROOT, table

ROWS, PAGE = ROOT / "docs" / "results" / "problems", ROOT / "docs" / "results.md"
HEAD = """# What was reached

Made by `make results` from the rows in `docs/results/`, each the figures of one run; nothing here is typed by hand. A
bar that is missed stands beside its figure. One seed is one run: no spread is known where there is one.
"""


def main() -> int:
    """Write the page."""
    PAGE.write_text(page(), "utf-8")
    print(f"Page: {PAGE.relative_to(ROOT)}")
    return 0


def page() -> str:
    """All rows, by problem, as Markdown."""
    return "\n".join([HEAD, *(_problem(name, rows) for name, rows in rows_by_problem().items())])


def rows_by_problem() -> dict[str, dict[int, Mapping[str, Any]]]:
    """By problem and seed: figures, command, commit, machine."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for path in sorted(ROWS.glob("*-seed*.json")):
        name, _, seed = path.stem.rpartition("-seed")
        found.setdefault(name, {})[int(seed)] = json.loads(path.read_text("utf-8"))
    return found


def _problem(name: str, rows: Mapping[int, Mapping[str, Any]]) -> str:
    seeds = sorted(rows)
    made = "\n".join("`{command}` at {commit:.12}, {machine}".format_map(rows[seed]) for seed in seeds)
    return f"{table(name, seeds, [rows[seed]['figures'] for seed in seeds])}\n{made}\n"


if __name__ == "__main__":
    sys.exit(main())
