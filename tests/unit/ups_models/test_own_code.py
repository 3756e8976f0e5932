"""Code of the user's: found, identified by its content, imported once; what is wrong with it is one line."""

import pytest
from pydantic import ValidationError

from ups_models import own_code as module
from ups_models.config.schema import PipelineConfig
from ups_models.errors import BadInput
from ups_models.own_code import OwnCode, identity_of, own_code, trust
from ups_models.problems.finding import evolving_problem


@pytest.fixture(autouse=True)
def _afresh(monkeypatch):
    own_code.cache_clear()
    monkeypatch.setattr(module, "_brought", {})
    yield
    own_code.cache_clear()


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text, "utf-8")
    return path


def test_an_object_is_loaded_with_the_modules_beside_it(here):
    write(here, "beside.py", "VALUE = 3\n")
    write(here, "mine.py", "from beside import VALUE\nANSWER = VALUE + 1\n")

    found = own_code("mine.py:ANSWER")

    assert found.load() == 4
    assert sorted(found.texts) == ["beside.py", "mine.py"]


def test_identity_is_that_of_all_of_the_code_and_not_of_the_place(here):
    for folder in ("a", "b"):
        write(here, f"{folder}/helper_{folder}.py", "VALUE = 3\n")
        write(here, f"{folder}/mine.py", "import math\nNET = 1\n")
    first, second = identity_of("a/mine.py:NET"), identity_of("b/mine.py:NET")

    write(here, "b/mine.py", "import helper_b\nNET = 1\n")
    own_code.cache_clear()
    with_helper = identity_of("b/mine.py:NET")
    write(here, "b/helper_b.py", "VALUE = 4\n")
    own_code.cache_clear()

    assert first == second
    assert first.startswith("mine.py:NET@")
    assert len({first, with_helper, identity_of("b/mine.py:NET")}) == 3


def test_packages_and_relative_imports_are_followed(here):
    write(here, "kit/__init__.py", "")
    write(here, "kit/inner.py", "from . import other\n")
    write(here, "kit/other.py", "X = 1\n")
    write(here, "mine.py", "import kit.inner\nNET = kit.inner.other.X\n")

    assert sorted(own_code("mine.py:NET").texts) == ["kit/__init__.py", "kit/inner.py", "kit/other.py", "mine.py"]
    assert own_code("mine.py:NET").load() == 1


@pytest.mark.parametrize(
    ("text", "reference", "message"),
    [
        ("NET = 1\n", "mine.py:Net", r"mine.py:Net: .*mine\.py has no Net; it has NET"),
        ("1 / 0\n", "mine.py:NET", r"mine\.py: raises ZeroDivisionError when it is imported: division by zero"),
        ("def f(:\n", "mine.py:NET", r"mine\.py:1: is no Python \(invalid syntax"),
        ("import missing_package_of_mine\n", "mine.py:NET", r"raises ModuleNotFoundError .*missing_package_of_mine"),
        ("NET = 1\n", "other.py:NET", r"other.py:NET: other\.py is no file here. .*--trust-code other.py"),
        ("NET = 1\n", "mine.py", r"'mine.py' names no object in a Python file; write it as my_file.py:Name"),
    ],
)
def test_what_is_wrong_with_it_is_one_line(here, text, reference, message):
    write(here, "mine.py", text)

    with pytest.raises(BadInput, match=message) as caught:
        own_code(reference).load()

    assert "\n" not in str(caught.value)


def test_code_that_came_with_a_run_is_found_once_it_is_trusted(here):
    texts = {"mine.py": "from helper_of_mine import X\nNET = X\n", "helper_of_mine.py": "X = 7\n"}
    digest = OwnCode("", "", here / "mine.py", texts).digest[:16]
    with pytest.raises(BadInput, match=r"--trust-code mine\.py"):
        own_code("nets/mine.py:NET")

    trust("mine.py", texts, digest)

    assert own_code("nets/mine.py:NET").load() == 7


def test_code_that_is_not_what_ran_is_never_executed(here):
    texts = {"mine.py": "raise SystemExit\n"}

    with pytest.raises(BadInput, match=r"mine\.py: the code that came with the run is not what the run was trained"):
        trust("mine.py", texts, "0" * 16)


def test_a_problem_of_ones_own_is_one_of_the_configs(here):
    write(here, "mine.py", "NET = 1\n")

    with pytest.raises(BadInput, match=r"mine\.py:NET is a int, expected a Problem"):
        evolving_problem("mine.py:NET")
    with pytest.raises(ValidationError, match="no problem is called 'kdv'; did you mean kdv1d"):
        PipelineConfig.model_validate({"data": {"problem": "kdv"}})


def test_a_module_that_is_imported_from_a_folder_above_is_part_of_the_code(here):
    write(here, "entry.py", "from pkg.sub.a import VALUE\n")
    for folder in ("pkg", "pkg/sub"):
        (here / folder).mkdir(exist_ok=True)
        write(here, f"{folder}/__init__.py", "")
    write(here, "pkg/sub/a.py", "from ..common import VALUE\n")
    write(here, "pkg/common.py", "VALUE = 1\n")

    assert "pkg/common.py" in own_code("entry.py:VALUE").texts
