"""The rules of the house that a reader relies on: arrows point down, one importer each, nothing of one machine."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import flows
import tasks
import ups_models

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("flows", "tasks", "ups_models")
# Spelled in parts, so that this file passes its own test. A slash in the middle of a path or URL is no match.
MACHINE_PATH = re.compile(rb"(?<![\w.~%})-])/(?:" + b"|".join([b"home", b"root", b"work"]) + rb")/[\w.]")
HEAVY = {"prefect", "torch", "vastai", "wandb", "matplotlib", "tasks.services.rental"}
MAY_START_PROCESSES = {
    "test_architecture.py": "git, and what an import loads",
    "services/test_code.py": "git",
    "services/test_rental_providers.py": "what an import loads",
}
"""The unit tests that start a process, and which."""
OUTSIDE = {"subprocess", "multiprocessing", "socket", "socketserver", "http.server", "harness.emulators"}
STARTS = {"Popen", "fork", "posix_spawn", "prefect_server", "wandb_server"}
TOO_BROAD = {"Exception", "BaseException"}
MAY_TURN_FAILURES_INTO_WARNINGS = {ROOT / "tasks/services/tracking/tracker.py", ROOT / "flows/prefect/outcome.py"}
RAISES_IT_ELSEWHERE = {ROOT / "tasks/services/run/uninterrupted.py"}
"""What was raised in a thread is raised again in the one that waits for it."""


def library_files() -> list[Path]:
    return [path for package in LIBRARIES for path in sorted((ROOT / package).rglob("*.py"))]


def tracked_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout: only a clone can tell which files are ours")
    paths = (ROOT / name for name in listing.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


def names_in(node: ast.expr) -> set[str]:
    return {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}


def catches_everything(node: ast.AST) -> bool:
    """Whether this is an `except` that does not raise on, or a `suppress`, of every error there is."""
    match node:
        case ast.ExceptHandler(type=None):
            caught = TOO_BROAD
        case ast.ExceptHandler(type=ast.expr() as named):
            caught = names_in(named)
        case ast.Call(func=ast.Name(id="suppress") | ast.Attribute(attr="suppress")):
            return any(names_in(argument) & TOO_BROAD for argument in node.args)
        case _:
            return False
    return bool(caught & TOO_BROAD) and not any(isinstance(child, ast.Raise) for child in ast.walk(node))


def test_imports_follow_the_contracts_of_pyproject():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"]

    verdict = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, text=True)

    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


@pytest.mark.parametrize("package", [flows, tasks, ups_models], ids=LIBRARIES)
def test_our_packages_win_over_namesakes_from_the_index(package):
    location = Path(package.__file__).resolve()

    assert location.is_relative_to(ROOT), f"{package.__name__} was imported from {location}, not from {ROOT}"


def test_the_cli_starts_without_its_heavy_dependencies():
    commands = [["--help"], ["status", "nowhere"], ["train", "--help"], ["train", "--config", "nowhere.yaml"]]
    probe = (
        "import sys; from contextlib import suppress; from flows.cli.main import main\n"
        f"for command in {commands}:\n"
        "    with suppress(SystemExit): main(command)\n"
        "print(*sys.modules, sep='\\n')"
    )

    loaded = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, check=True, text=True)

    modules = set(loaded.stdout.split())
    assert "flows.cli.commands.train" in modules
    assert HEAVY & modules == set(), "these commands must answer at once: import it inside the function"


@pytest.mark.parametrize(
    "path",
    [path for path in library_files() if path not in {*MAY_TURN_FAILURES_INTO_WARNINGS, *RAISES_IT_ELSEWHERE}],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_no_library_module_swallows_every_error(path):
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    places = [node for node in nodes if isinstance(node, ast.ExceptHandler | ast.Call)]

    lines = [place.lineno for place in places if catches_everything(place)]

    assert not lines, f"{path}: lines {lines} catch everything; name the error and cure it, or raise"


def test_no_file_names_a_path_of_one_machine():
    files = tracked_files()

    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files
        for number, line in enumerate(path.read_bytes().splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]

    assert not found, f"write paths relative to the repository: {found}"


def test_constraints_are_versions_and_nothing_else():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]

    strange = [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin)]

    assert not strange, f"a pin is name==version, without a URL, a path or a local build: {strange}"


def test_decisions_have_one_form():
    heading = re.compile(
        r"# (\d{4})\. .+\n\nDate: \d{4}-\d\d-\d\d\. Status: (accepted|superseded by \d{4})\.\n\n\*\*Context\.\*\*"
    )
    for path in sorted((ROOT / "docs" / "adr").glob("*.md")):
        found = heading.match(path.read_text("utf-8"))

        assert found, f"{path.name}: begin with '# NNNN. Title', 'Date: YYYY-MM-DD. Status: accepted.' and **Context.**"
        assert path.name.startswith(found.group(1))


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "tests" / "unit").rglob("*.py")),
    ids=lambda path: path.relative_to(ROOT / "tests").as_posix(),
)
def test_a_unit_test_starts_no_process_and_no_server(path):
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))

    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {
        f"{node.module}.{alias.name}" for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    imported -= {"subprocess.CompletedProcess"}  # what the real command gives too
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    used |= {node.id for node in nodes if isinstance(node, ast.Name)}
    used |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    outside = {name for name in imported for root in OUTSIDE if f"{name}.".startswith(f"{root}.")} | used & STARTS

    if path.relative_to(ROOT / "tests" / "unit").as_posix() in MAY_START_PROCESSES:
        assert outside, "it starts nothing any more: take it out of the list"
    else:
        assert not outside, f"{path}: {sorted(outside)}: it belongs into tests/e2e, or needs a fake"
