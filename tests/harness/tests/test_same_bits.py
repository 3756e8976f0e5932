"""The guard of the bits: it must notice the smallest difference, and never be content with nothing."""

import json
import re
import subprocess

import numpy as np
import pytest
import torch

from harness.bench.comparison import contents, differences
from harness.bench.revisions import checked_out
from harness.bench.same_bits import Tree

GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
FIGURES = {"created_at": "now", "seed": 0, "rollout": {"mean": 0.1, "ci95": [0.05, None]}, "reached": False}
ROW = {"stage": "operator", "step": 1, "loss": 0.5}


@pytest.fixture
def write(tmp_path):
    """A finished run with a few things in it, of which a test changes one."""

    def run(name, tensor=None, figures=None, array=None, rows=(ROW,)):
        root = tmp_path / name
        for folder in ("checkpoints", "reports"):
            (root / folder).mkdir(parents=True)
        payload = {"state_dict": {"w": torch.ones(3) if tensor is None else tensor}, "step": 4}
        torch.save(payload, root / "checkpoints" / "operator.pt")
        for evaluation in ("small_eval", "full_eval"):
            (root / "reports" / f"{evaluation}.json").write_text(json.dumps(figures or FIGURES), "utf-8")
            np.savez(root / "reports" / f"{evaluation}.npz", x=np.arange(3.0) if array is None else array)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / "reports" / "metrics.jsonl").write_text(text, "utf-8")
        return contents(root)

    return run


def test_equal_runs_are_equal_whenever_they_were_made(write):
    later = {**FIGURES, "created_at": "later", "seconds": 3.0}

    assert differences(write("there"), write("here", figures=later)) == []
    assert {kind: len(things) for kind, things in write("again").items()} == {
        "tensors": 1,
        "figures": 10,
        "arrays": 2,
        "rows": 1,
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tensor": torch.tensor([1.0, 1.0, 1.0 + 2**-23])}, "operator.pt: state_dict.w: largest difference 1.19e-07"),
        ({"tensor": torch.ones(3, dtype=torch.float64)}, "largest difference 0 (torch.float32 and torch.float64)"),
        ({"tensor": torch.ones(3, 1)}, "(3,) torch.float32 there, (3, 1) torch.float32 here"),
        ({"tensor": torch.full((3,), torch.nan)}, "state_dict.w: largest difference"),
        ({"figures": {**FIGURES, "seed": -0.0}}, "small_eval.json: seed: largest difference 0"),
        ({"figures": {**FIGURES, "reached": True}}, "small_eval.json: reached: largest difference 1"),
        (
            {"figures": {**FIGURES, "rollout": {"mean": 0.1, "ci95": [0.05, 0.2]}}},
            "rollout.ci95.1: None there, 0.2 here",
        ),
        ({"figures": {**FIGURES, "new": 1}}, "small_eval.json: new: 'absent' there, 1 here"),
        ({"array": np.array([0.0, 1.0, np.nextafter(2.0, 3.0)])}, "small_eval.npz: x: largest difference 4.44e-16"),
        (
            {"rows": [{**ROW, "loss": 0.5000000000000001}]},
            "operator, step 1: largest difference 1.11e-16",
        ),
        ({"rows": [ROW, {**ROW, "step": 2}]}, "operator, step 2: 'absent' there"),
    ],
)
def test_the_smallest_difference_is_found_and_named(write, change, said):
    found = differences(write("there"), write("here", **change))

    assert found
    assert said in found[0]


def test_checks_are_compared_by_what_was_measured_whatever_bound_and_place_they_have(write):
    one, another, third = ({"name": name, "value": 0.5, "bound": 1.0} for name in ("one", "another", "third"))
    there = write("there", figures={**FIGURES, "gates": [one, another]})
    again = write("again", figures={**FIGURES, "checks": [third, {**one, "bound": 2.0}]})
    other = write("other", figures={**FIGURES, "checks": [{**one, "value": 0.25}]})

    assert differences(there, again) == []
    assert [line for line in differences(there, other) if "small_eval" in line] == [
        "reports/small_eval.json: gates.one: largest difference 0.25"
    ]


def test_what_is_set_apart_is_not_compared_and_all_else_is(write):
    there, here = write("there"), write("here", array=np.arange(3.0) + 1)

    assert differences(there, here, apart=re.compile(r"\.npz: x$")) == []
    assert len(differences(there, here, apart=re.compile(r"\.npz: y$"))) == 2


def test_nothing_to_compare_is_a_difference(write):
    empty = write("there", rows=())

    assert differences(empty, empty) == ["no rows to compare"]


@pytest.fixture
def repository(tmp_path):
    """Two commits; the first one's hash."""
    root = tmp_path / "origin"
    root.mkdir()
    for text in ("first", "second"):
        (root / "file").write_text(text, "utf-8")
        for command in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", text]):
            subprocess.run([*GIT, *command], cwd=root, check=True)
    first = subprocess.check_output([*GIT, "rev-parse", "HEAD~1"], cwd=root, text=True).strip()
    return root, first


@pytest.mark.parametrize("depth", [[], ["--depth=1"]], ids=["whole", "shallow"])
@pytest.mark.parametrize("length", [40, 12], ids=["hash", "abbreviated"])
def test_a_revision_is_fetched_where_a_shallow_clone_lacks_it(repository, tmp_path, depth, length):
    root, first = repository
    clone = tmp_path / "clone"
    subprocess.run([*GIT, "clone", "-q", *depth, root.as_uri(), str(clone)], check=True)

    folder = checked_out(first[:length], tmp_path / "base", clone)

    assert (folder / "file").read_text("utf-8") == "first"
    assert (clone / "file").read_text("utf-8") == "second"


def test_a_revision_that_cannot_be_had_ends_the_command(repository, tmp_path):
    with pytest.raises(SystemExit, match="revision 0123456789: not in"):
        checked_out("0123456789", tmp_path / "base", repository[0])


@pytest.fixture
def tree(tmp_path):
    """Code whose pipeline is this script, and a run that it may resume."""

    def write(script):
        (tmp_path / "code" / "flows").mkdir(parents=True)
        (tmp_path / "code" / "flows" / "pipeline.py").write_text(script, "utf-8")
        (tmp_path / "run" / "checkpoints").mkdir(parents=True)
        status = {"stages": {"operator": {"started_at": "then"}, "diff_residual": {"status": "not_started"}}}
        (tmp_path / "run" / "checkpoints" / "stage_status.json").write_text(json.dumps(status), "utf-8")
        return Tree("it", tmp_path / "code", "any.yaml"), tmp_path / "run"

    return write


def test_a_run_that_starts_again_instead_of_resuming_ends_the_command(tree):
    code, run = tree(
        "from pathlib import Path; path = Path('checkpoints/stage_status.json');"
        "path.write_text(path.read_text().replace('then', 'now'))"
    )

    with pytest.raises(SystemExit, match="did not resume run, but began operator again"):
        code.resume(run)


@pytest.mark.parametrize(
    ("code", "said"), [(0, "diff_residual ended before the signal"), (75, "before the signal"), (2, "exit code 2\nwhy")]
)
def test_a_run_that_cannot_be_interrupted_in_the_middle_ends_the_command(tree, code, said):
    code, run = tree(f"import sys; print('why'); sys.exit({code})")

    with pytest.raises(SystemExit, match=said):
        code.half_way(run)
