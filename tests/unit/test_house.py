"""One way to do a thing, and sizes: what keeps the house readable and no linter knows."""

import ast
import re
import tomllib
from importlib import import_module

import pytest

from flows import ROOT

PRODUCT = [path for package in ("flows", "tasks", "ups_models") for path in sorted((ROOT / package).rglob("*.py"))]
NAMES = [path.relative_to(ROOT).as_posix() for path in PRODUCT]
ONLY_IN = {
    r"\bos\.(environ|getenv)\b": {"tasks/services/run/environment.py"},
    r"\bimport tenacity|from tenacity\b": {"tasks/services/run/retry.py"},
    r"errors\(include_url": {"ups_models/config/faults.py"},
    r"\"(metrics\.jsonl|stage_status\.json|report\.html|attempts\.jsonl|rented\.jsonl|manifest\.json)\"": {
        "tasks/services/run/paths.py"
    },
}
"""What may stand in one module alone."""
READING = re.compile(
    r"\.read_(?:text|bytes)\(|\.open\((?:\"rb?\")?\)|(?<![.\w])open\(|os\.open\(|json\.loads?\(|yaml\.(?:safe_)?load|tomllib\.load|"
    r"np\.load\(|torch\.load\(|h5py\.File\(|ZipFile\("
)
READS_ITSELF = {
    "ups_models/reading.py": "the one reader",
    "ups_models/archives.py": "what the reader opened",
    "ups_models/arrays.py": "what the reader opened",
    "ups_models/stages/lineage.py": "what the reader opened",
    "ups_models/training/checkpoint.py": "what the reader opened",
    "ups_models/data/layouts/hdf5.py": "HDF5 opens files by name; they are looked at before",
    "ups_models/data/layouts/npz.py": "what the reader opened",
    "ups_models/data/generate.py": "writes",
    "ups_models/files.py": "a folder, to flush it",
    "flows/cli/views/console.py": "/dev/null",
    "flows/prefect/automations.py": "templates of ours",
    "flows/prefect/deploy.py": "a file of the package",
    "flows/prefect/home.py": "a lock of ours",
    "tasks/services/stages/reporting.py": "pages that this process wrote",
    "tasks/services/rental/bundle.py": "a file of the package",
    "tasks/services/rental/choosing/places.py": "a file of a package",
    "tasks/services/rental/machine.py": "runs before the reader's own dependencies are installed",
    "tasks/services/rental/providers/local.py": "/proc, and the log of a machine here",
    "tasks/services/rental/providers/ssh/shell.py": "files of the package, and what ssh complains of",
    "tasks/services/run/signals.py": "/dev/null",
    "tasks/services/stages/overview.py": "pages that this process wrote",
}
"""Modules that open or parse files without the one reader, and why they may."""
LONGEST_MODULE, LONGEST_FUNCTION = 400, 50
TEST = re.compile(r"`(?:(test_\w+\.py)::)(test_\w+)`")


@pytest.mark.parametrize("pattern", ONLY_IN)
def test_there_is_one_place_for_it(pattern):
    found = {name for name, path in zip(NAMES, PRODUCT, strict=True) if re.search(pattern, path.read_text("utf-8"))}

    assert found == ONLY_IN[pattern]


def test_files_are_read_through_the_one_reader():
    found = {name for name, path in zip(NAMES, PRODUCT, strict=True) if READING.search(path.read_text("utf-8"))}

    assert found - READS_ITSELF.keys() == set(), "read it with ups_models.reading"
    assert READS_ITSELF.keys() - found == set(), "it opens nothing any more: take it out of the list"


def test_no_module_and_no_function_is_too_long():
    lengths = {name: len(path.read_text("utf-8").splitlines()) for name, path in zip(NAMES, PRODUCT, strict=True)}
    functions = {
        f"{name}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for name, path in zip(NAMES, PRODUCT, strict=True)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    }

    assert {name: length for name, length in lengths.items() if length > LONGEST_MODULE} == {}
    assert {name: length for name, length in functions.items() if length > LONGEST_FUNCTION} == {}


def test_the_harness_is_neither_imported_nor_shipped():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

    assert settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["flows", "tasks", "ups_models"]
    imports = re.compile(r"^\s*(from|import) harness", re.MULTILINE)
    assert [name for name, path in zip(NAMES, PRODUCT, strict=True) if imports.search(path.read_text("utf-8"))] == []


def test_every_test_that_the_docs_name_exists():
    tests: dict[str, str] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        tests[path.name] = tests.get(path.name, "") + path.read_text("utf-8")
    named = [
        (page.name, file, test)
        for page in sorted((ROOT / "docs").rglob("*.md"))
        for file, test in TEST.findall(page.read_text("utf-8"))
    ]

    assert len(named) > 40
    assert [item for item in named if f"def {item[2]}(" not in tests.get(item[1], "")] == []


def test_entry_points_name_what_there_is():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]

    for name in groups["ups.sources"].values():
        module, _, attribute = name.partition(":")
        assert callable(getattr(import_module(module), attribute))
