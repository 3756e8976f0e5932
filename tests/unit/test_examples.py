"""What docs/examples shows is executed as it stands."""

import json
import shutil
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

from flows import ROOT

NOTEBOOK = ROOT / "docs" / "examples" / "burgers.ipynb"
MAX_LINES = 12


def cells_of(path: Path) -> list[str]:
    return [
        "".join(cell["source"]) for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"
    ]


@pytest.fixture
def _no_screen():
    before = matplotlib.get_backend()
    matplotlib.use("agg")
    yield
    plt.close("all")
    matplotlib.use(before)


@pytest.mark.usefixtures("_no_screen")
def test_the_notebook_goes_from_a_trained_run_to_a_plot(here, finished_run):
    shutil.copytree(finished_run, here / "runs" / "smoke")
    names: dict[str, object] = {}

    for cell in cells_of(NOTEBOOK):
        exec(compile(cell, str(NOTEBOOK), "exec"), names)  # noqa: S102 - ours

    assert (here / "rollout.png").stat().st_size > 1000


def test_it_is_short_and_holds_no_output():
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))

    lines = [line for cell in cells_of(NOTEBOOK) for line in cell.splitlines() if line and "import" not in line]
    assert len(lines) <= MAX_LINES
    assert all(not cell.get("outputs") for cell in notebook["cells"])
