"""What README and docs tell a reader to type exists: commands, flags, values, make targets, deployments, links."""

import importlib.util
import re
import shlex

import pytest
import yaml

from flows import ROOT
from flows.cli import _parser, _validated
from flows.launch import LaunchRequest
from flows.request import TrainRequest

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
DEPLOYMENTS = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text("utf-8"))["deployments"]
NAMES = {f"{one['entrypoint'].rpartition('.')[2].replace('_', '-')}/{one['name']}" for one in DEPLOYMENTS}
OTHERS = {"export", "git", "cd", ".", "prefect", ".venv/bin/pre-commit"}
"""Commands that are not ours."""


def commands_of(path):
    """Every command of the page's bash blocks, as words."""
    for block in BLOCK.findall(path.read_text("utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = next((n for n, word in enumerate(words) if word.endswith(";") or word == "&&"), len(words))
                command = [word.rstrip(";") for word in words[: end + 1] if word != "&&"]
                yield [word for word in command if not re.fullmatch(r"[A-Z_]+=.*", word) or "make" in command]
                words = words[end + 1 :]


ALL = [(path.relative_to(ROOT).as_posix(), words) for path in PAGES for words in commands_of(path) if words]


@pytest.mark.parametrize(("page", "words"), ALL, ids=[f"{page}: {' '.join(words)}"[:90] for page, words in ALL])
def test_a_command_of_the_docs_exists(page, words):
    match words:
        case ["ups", *arguments]:
            understood(arguments)
        case ["python", "flows/pipeline.py", *arguments]:
            understood(["train", *arguments])
        case ["python", "-m", module, *_]:
            assert importlib.util.find_spec(module) is not None
        case ["make", *arguments]:
            targets = [word for word in arguments if "=" not in word and not word.startswith("-")]
            assert set(targets) <= TARGETS
        case ["prefect", "deployment", "run", name, *_]:
            assert name in NAMES
        case [first, *_]:
            assert first in OTHERS, f"{page}: {words} is a command that nobody checks"


def understood(arguments):
    """The command line takes them, and a request can be made of them."""
    parsed = _parser().parse_args(arguments)
    if arguments[0] == "train":
        _validated(TrainRequest, parsed)
    if arguments[0] == "launch":
        _validated(LaunchRequest, parsed, without=("dry_run", "detach"))


@pytest.mark.parametrize("path", PAGES, ids=[path.name for path in PAGES])
def test_a_link_of_the_docs_leads_somewhere(path):
    for target in LINK.findall(path.read_text("utf-8")):
        assert (path.parent / target).exists(), target


def test_there_is_something_to_check():
    assert len(ALL) > 30
