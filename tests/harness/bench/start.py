"""How straight the way from a request to its first step is, how dear a start that trains nothing, how long the code.

    make bench-start ARGS="--base REVISION --config configs/quickstart.yaml --rounds 5 --show"

The working tree and another revision are measured in one run, in turn. A room is a subpackage, or a module that lies
directly in ups_models. probe.py says which calls and bytes count. The request is that of configs/smoke.yaml in a
directory that holds its data and nothing else, so that solving for them is left out.
"""

import argparse
import ast
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.bench.revisions import FIRST_EDITION, ROOT, checked_out

PROBE = Path(__file__).with_name("probe.py")
SMOKE = "configs/smoke.yaml"
PACKAGES = ("flows", "tasks", "ups_models")
APART = re.compile(r"ups_models\.(config|errors)(\..+)?")  # calls into them, or out of them, do not count
# Each room's layer, from the top, and the modules that lay flat beside it in the first edition and are in it now.
ROOMS = {
    "flows.cli": (0, "show show_launch view"),
    "flows": (1, ""),
    "flows.requests": (2, "request launch"),
    "flows.prefect": (2, "automations chain control deploy prefect_plugin server watch"),
    "tasks": (3, ""),
    "tasks.services.stages": (4, "evaluation execution overview planning sync training"),
    "tasks.services.rental": (5, "bootstrap code local_provider outcome remote_job vast"),
    "tasks.services.data": (5, "datasets download"),
    "tasks.services.tracking": (6, "restore"),
    "tasks.services.checkpoints": (7, "checkpoint_sets uploads"),
    "tasks.services.run": (8, "attempts history progress run_dir signals status"),
    "ups_models.report": (9, "report_tables report_figures"),
    "ups_models.exporting": (10, ""),
    "ups_models.surrogate": (11, ""),
    "ups_models.exported": (12, ""),
    "ups_models.evaluation": (13, "evaluate metrics rollout"),
    "ups_models.training": (14, "train ema distributed checkpoint"),
    "ups_models.stages": (15, "specs losses"),
    "ups_models.peers": (16, ""),
    "ups_models.nn": (17, "sample"),
    "ups_models.data": (18, ""),
    "ups_models.problems": (19, "data.pde"),
    "ups_models.files": (20, ""),
    "ups_models.own_code": (21, ""),
    "ups_models.archives": (21, ""),
    "ups_models.arrays": (21, ""),
    "ups_models.reading": (22, ""),
    "ups_models.wording": (23, ""),
    "ups_models.children": (24, ""),
}
OLD = {f"{room.rpartition('.')[0]}.{name}": room for room, (_, names) in ROOMS.items() for name in names.split()}
OLD["tasks.artifacts"] = "flows.prefect"


def main() -> None:
    """Measure both trees and print the table."""
    parser = argparse.ArgumentParser(prog="bench-start", description=__doc__.splitlines()[0])
    parser.add_argument("--base", default=FIRST_EDITION, help="revision to compare with")
    parser.add_argument("--config", default=SMOKE, help="config of the completed run that is started again")
    parser.add_argument("--rounds", type=int, default=3, help="how often that run is timed")
    parser.add_argument("--show", action="store_true", help="list the 40 calls that make the most moves")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-start-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        base = checked_out(arguments.base, folder / "base")
        trees = [Tree("working tree", ROOT, folder), Tree(arguments.base[:7], base, folder)]
        for tree in trees:
            tree.measure(arguments.config)
        turns = [[tree.run(arguments.config) for tree in trees] for _ in range(arguments.rounds)]
    for tree, seconds in zip(trees, zip(*turns, strict=True), strict=True):
        for word, of in (("median", statistics.median), ("minimum", min), ("maximum", max)):
            tree.figures[f"completed run again, s: {word}"] = of(seconds)
    print(f"{'figure':<44}{trees[0].name:>14}{trees[1].name:>14}{'ratio':>9}")
    for row, here in trees[0].figures.items():
        there = trees[1].figures[row]
        print(f"{row:<44}{here:>14.6g}{there:>14.6g}{f'{here / there:.3f}' if there else '-':>9}")
    for tree in trees if arguments.show else ():
        print(*tree.shown, sep="\n")


class Tree:
    """A revision, the runs that are made with it, what was measured, and what it was made of."""

    def __init__(self, name: str, root: Path, folder: Path) -> None:
        self.name, self.root, self.runs = name, root, folder / f"runs of {name}"
        self.figures: dict[str, float] = {}
        self.shown: list[str] = []

    def measure(self, config: str) -> None:
        """All figures but the seconds; leaves a completed run of the config behind."""
        self.run(SMOKE)
        for path in (self.runs / Path(SMOKE).stem).iterdir():
            if path.name != "data":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.count_moves("to first step", self.probe(SMOKE, "first step")["pairs"])
        self.run(config)
        again = self.probe(config, "end of the flow")
        self.count_moves("completed run", again["pairs"])
        files = (self.runs / Path(config).stem / "checkpoints").rglob("*.pt")
        self.figures["checkpoint bytes read / bytes on disk"] = again["bytes"] / sum(it.stat().st_size for it in files)
        self.count_code()

    def run(self, config: str, *script: str) -> float:
        """Begin the run of this config or start it again; returns the seconds of the whole process."""
        folder = self.runs / Path(config).stem
        folder.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        environment |= {"WANDB_MODE": "disabled", "PREFECT_HOME": str(self.runs), "PYTHONPATH": str(self.root)}
        script = script or (str(self.root / "flows" / "pipeline.py"),)
        command = [sys.executable, *script, "--config", config, "--auto-resume"]
        started = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{self.name}: exit code {done.returncode}\n{done.stderr}")
        return time.perf_counter() - started

    def probe(self, config: str, end: str) -> dict[str, Any]:
        """What probe.py saw of such a run, counted to this end."""
        result = self.runs / "probe.json"
        self.run(config, str(PROBE), str(self.root), str(result))
        seen: dict[str, Any] = json.loads(result.read_text("utf-8"))
        if seen["end"] != end:
            raise SystemExit(f"{self.name}: the count ended at {seen['end']!r}, not at {end!r}: see {PROBE.name}")
        return seen

    def count_moves(self, what: str, pairs: list[tuple[str, str, int]]) -> None:
        """The calls from one room to another: how many, how many to a higher layer, and between which rooms."""
        upward, edges, lines = 0, Counter[tuple[str, str]](), Counter[str]()
        for caller, callee, count in pairs:
            edge = room_of(caller), room_of(callee)
            if edge[0] != edge[1] and all(edge):
                up = ROOMS[edge[1]][0] < ROOMS[edge[0]][0]
                upward += count * up
                edges[edge] += count
                lines[f"{'^' if up else ' '} {caller} -> {callee}"] += count
        self.figures[f"moves, {what}"] = edges.total()
        self.figures[f"moves, {what}: upward"] = upward
        self.figures[f"moves, {what}: distinct edges"] = len(edges)
        self.shown += ["", f"{self.name}: moves, {what} (^ upward)"]
        self.shown += [f"{count:>5} {line}" for line, count in lines.most_common(40)]

    def count_code(self) -> None:
        """Statements, the longest module and function, and public names without a docstring."""
        statements, bare, modules, functions = 0, 0, {}, {}
        for path in (path for package in PACKAGES for path in (self.root / package).rglob("*.py")):
            text, name = path.read_text("utf-8"), path.relative_to(self.root).as_posix()
            module = ast.parse(text)
            modules[name] = len(text.splitlines())
            bare += sum(ast.get_docstring(node) is None for node in public(module.body))
            for node in (node for node in ast.walk(module) if isinstance(node, ast.stmt)):
                statements += 1
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    functions[f"{name}:{node.name}"] = (node.end_lineno or node.lineno) - node.lineno + 1
        self.figures["AST statements, docstrings among them"] = statements
        for what, lines in (("module", modules), ("function", functions)):
            longest = max(lines, key=lines.__getitem__)
            self.figures[f"longest {what}, lines"] = lines[longest]
            self.shown.append(f"{self.name}: longest {what}: {longest}")
        self.figures["public names without docstring"] = bare


def public(body: Iterable[ast.stmt]) -> Iterable[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """The public functions and classes of a module, and the public methods of those classes."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            yield from public(node.body if isinstance(node, ast.ClassDef) else ())


def room_of(function: str) -> str:
    """The room of a function, written as `module:qualified name`; empty for the config schema and errors."""
    module = function.partition(":")[0]
    parts = OLD.get(module, module).split(".")
    room = ".".join(parts[: 3 if parts[:2] == ["tasks", "services"] else 2])
    if APART.fullmatch(module):
        return ""
    room = room if room in ROOMS or len(parts) > 2 else parts[0]
    if room not in ROOMS:
        raise SystemExit(f"{module}: {room} is a new room; give it a layer in ROOMS of {Path(__file__).name}")
    return room


if __name__ == "__main__":
    main()
