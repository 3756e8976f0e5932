"""The page of what was reached, and tables of other pages, from the rows that were committed: `make results`."""

import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.bench.growth import growth_table
from harness.bench.problems import ROOT, figure_table, table
from harness.bench.solvers import solver_table
from tasks.services.stages.result_rows import ResultRow, read_row
from ups_models.evaluation.checks import CHECKS, CheckRow
from ups_models.evaluation.result import Check
from ups_models.report.words import bound, bounds

ROWS, PAGE = ROOT / "docs" / "results", ROOT / "docs" / "results.md"
README, SCALE, METHODS = ROOT / "README.md", ROOT / "docs" / "scale.md", ROOT / "docs" / "methods.md"
HEAD = """# What was reached

Made by `make results` from the rows in `docs/results/`, each the figures of one run; nothing here is typed by hand. A
bar that is missed stands beside its figure. One seed is one run: no spread is known where there is one.
"""
END = "<!-- end -->"
QUICKSTART: Mapping[str, tuple[str, str]] = {
    "rollout nRMSE, mean": ("rollout nRMSE, mean", ""),
    "rollout nRMSE, median": ("rollout nRMSE, median", ""),
    "rollout nRMSE of persistence": ("rollout nRMSE, mean, of persistence", ""),
    "rollout nRMSE of the constant mean": ("rollout nRMSE, mean, of the constant mean", ""),
    "one-step nRMSE": ("one-step nRMSE", ""),
    "CRPS of a rollout / error of one forecast": ("CRPS of a rollout / mean absolute error of one forecast", ""),
    "nRMSE of the ensemble's mean / of one forecast": ("nRMSE of the ensemble's mean / of one forecast", ""),
    **{f"spread / skill after {n} steps": (f"spread / skill after {n} steps", "") for n in (1, 10, 40)},
    **{f"coverage of 90 % after {n} steps": (f"coverage of 90 % after {n} steps", "") for n in (1, 10, 40)},
    "steady prior member nRMSE": ("steady prior on 32² Darcy, nRMSE of a member", ""),
    "steady prior CRPS / error of its mean": ("steady prior, CRPS / error of its mean", ""),
    "quickstart, wall (s)": ("quickstart end to end, after installation, s", "≤ 300"),
    "quickstart, peak memory of a process (GB)": ("peak memory, GB", "≤ 2"),
    "completed run again, wall (s)": ("running a completed pipeline again, s", "≤ 15"),
    "ups status, wall (s)": ("`ups status`, s", "≤ 0.5"),
}
"""Figures of the README's table: what they are called there, and their bar where it is no check's."""


@dataclass(frozen=True)
class Contest:
    """A figure of ours beside the least of others', in rows of one kind and name."""

    label: str
    kind: str
    name: str
    ours: str
    theirs: tuple[str, ...]


PEERS = ("fno, nRMSE", "unet, nRMSE", "dilresnet, nRMSE")
CONTESTS = (
    *(
        Contest(f"APEBench, {label}: GMean100 beside the best published median", "apebench", f"{name}-published",
                "GMean100", ("GMean100, best published",))
        for name, label in (("ks", "Kuramoto–Sivashinsky"), ("kdv", "Korteweg–de Vries"), ("burgers", "Burgers"))
    ),
    *(
        Contest(f"Burgers, {seconds} CPU seconds: rollout nRMSE beside the best of FNO, U-Net, Dil-ResNet", "peers",
                f"quickstart-{seconds}s", "operator, nRMSE", PEERS)
        for seconds in (80, 200, 400, 800)
    ),
)  # fmt: skip


def main() -> int:
    """Write the page, and the tables in others."""
    PAGE.write_text(page(), "utf-8")
    for path in TABLES:
        path.write_text(with_tables(path), "utf-8")
    print(f"Page: {PAGE.relative_to(ROOT)}")
    return 0


def page() -> str:
    """All rows, by kind and problem, as Markdown."""
    parts = [_problem(name, rows) for name, rows in by_name("problems").items()]
    for kind, title in KINDS.items():
        parts += [_kind(kind, title, name, rows) for name, rows in by_name(kind).items()]
    return "\n".join([HEAD, *parts])


def with_tables(path: Path, text: str | None = None) -> str:
    """A page, as it is or as given, with its tables made from the rows."""
    text = path.read_text("utf-8") if text is None else text
    for begin, table_of in TABLES[path].items():
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(END)
        text = before + begin + table_of() + END + after
    return text


def contest_table() -> str:
    """A line for each contest of which there are rows: medians over seeds, and the ratio of both."""
    lines = ["| beside others, medians | ours | theirs | ratio | our seeds |", "|---" * 5 + "|"]
    for contest in CONTESTS:
        rows = [row.figures for row in by_name(contest.kind).get(contest.name, {}).values()]
        rows = [row for row in rows if row.keys() >= set(contest.theirs)]
        if not rows:
            continue
        ours = statistics.median(row[contest.ours] for row in rows)
        theirs = statistics.median(min(row[name] for name in contest.theirs) for row in rows)
        lines.append(f"| {contest.label} | {ours:.3g} | {theirs:.3g} | {ours / theirs:.2g} | {len(rows)} |")
    return "\n".join(lines) + "\n"


def scaling_table() -> str:
    """How time and memory grow."""
    [row] = by_name("growth")["growth"].values()
    return f"{growth_table(row.figures)}\n`{row.command}` at {row.commit:.12}, {row.machine}\n"


def accuracy_table() -> str:
    """How far the Burgers solver is from the exact solution."""
    [row] = by_name("solvers")["burgers1d"].values()
    return f"{solver_table(row.figures)}\n`{row.command}` at {row.commit:.12}, {row.machine}\n"


def quickstart_table() -> str:
    """A line for each figure, a column for each seed, and what it is held against."""
    rows = by_name("quickstart")["quickstart"]
    seeds = sorted(rows)
    lines = [f"| metric | {' | '.join(f'seed {seed}' for seed in seeds)} | check |", "|---" * (len(seeds) + 2) + "|"]
    for figure, (label, bar) in QUICKSTART.items():
        cells = " | ".join(
            f"{rows[seed].figures[figure]:.3g}" if figure in rows[seed].figures else "" for seed in seeds
        )
        lines.append(f"| {label} | {cells} | {bar or bar_of(figure)} |")
    return "\n".join(lines) + "\n"


def bar_of(figure: str) -> str:
    """The bounds of the check of this name, as a report shows them."""
    row: CheckRow | None = next((one for one in CHECKS if one.name == figure), None)
    if row is None:
        return ""
    check = Check(
        name=row.name, value=0.0, bound=row.bound, lower=row.lower, sense=row.sense, stretch_goal=row.stretch_goal
    )
    goal = "" if row.stretch_goal is None else f", stretch goal {bound(check, row.stretch_goal)}"
    return f"{bounds(check)}{goal}"


def by_name(kind: str) -> dict[str, dict[int, ResultRow]]:
    """The rows of a kind, by what they are of, and by seed."""
    found: dict[str, dict[int, ResultRow]] = {}
    for path in sorted((ROWS / kind).glob("*-seed*.json")):
        name, _, seed = path.stem.rpartition("-seed")
        found.setdefault(name, {})[int(seed)] = read_row(path)
    return found


def _problem(name: str, rows: Mapping[int, ResultRow]) -> str:
    seeds = sorted(rows)
    return f"{table(name, seeds, [rows[seed].figures for seed in seeds])}\n{_made(rows)}\n"


def _kind(kind: str, title: str, name: str, rows: Mapping[int, ResultRow]) -> str:
    """Figures down; the mean over seeds and its range."""
    found = figure_table({f"{len(rows)} seeds": [row.figures for row in rows.values()]})
    return f"### {title}: {name}\n\n{found}\n\n{_made(rows)}\n"


def _made(rows: Mapping[int, ResultRow]) -> str:
    there = [rows[seed] for seed in sorted(rows)]
    return "\n".join(f"`{row.command}` at {row.commit:.12}, {row.machine}" for row in there)


KINDS: Mapping[str, str] = {
    "quickstart": "Quickstart",
    "calibration": "Calibration of rollouts",
    "peers": "Peers at equal compute",
    "apebench": "APEBench's protocol",
    "speed": "Speed",
}

TABLES: Mapping[Path, Mapping[str, Callable[[], str]]] = {
    README: {"<!-- make results -->\n": quickstart_table, "<!-- make results: others -->\n": contest_table},
    SCALE: {"<!-- make results: growth -->\n": scaling_table},
    METHODS: {"<!-- make results: solvers -->\n": accuracy_table},
}
"""By page, and by the marker before each table."""

if __name__ == "__main__":
    sys.exit(main())
