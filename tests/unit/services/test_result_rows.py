"""Rows of results: what made them is in them, and a run that is made again is compared with its row."""

import shutil
from pathlib import Path

import pytest
import torch

from tasks.services.run.paths import RunDir
from tasks.services.stages.result_rows import _measured, compare, read_row, reproducible_row, row_of, write_row
from ups_models.errors import BadInput

ELSEWHERE = {"machine": "arm64, NEON, accelerator none"}


@pytest.fixture(scope="module")
def run(finished_run):
    return RunDir.of(finished_run, finished_run / "checkpoints")


@pytest.fixture
def row(run):
    return row_of(run, {"error": 1.0}, command="make it", machine="here")


@pytest.fixture
def path(tmp_path, row):
    write_row(tmp_path / "smoke-seed0.json", row)
    return tmp_path / "smoke-seed0.json"


def other(row, **changes):
    return row.model_copy(update=changes)


def seeds(path, row, errors):
    """Rows of further seeds, which measured these errors."""
    for number, error in enumerate(errors, 1):
        numbers = row.numbers | {"rollout/summary/operator/mean": error}
        write_row(path.with_name(f"smoke-seed{number}.json"), other(row, numbers=numbers))


def test_a_row_is_read_as_it_was_written_and_holds_what_made_it(path, row):
    found = read_row(path)

    assert found == row
    assert "operator_ema.pt" in found.digests
    assert found.numbers["rollout/summary/operator/mean"] > 0
    assert "steps_per_epoch" in found.config
    assert "#" not in found.config


def test_the_same_run_has_the_same_bits(path, row, run):
    found = compare(row, run, path)

    assert found.is_same
    assert "operator_ema.pt: the same bits" in found.lines


def test_without_digests_every_number_must_be_the_same(path, row, run):
    same = compare(other(row, digests={}), run, path)
    changed = compare(other(row, digests={}, numbers=row.numbers | {"one_step/operator/nrmse": 7.0}), run, path)

    assert same.is_same, same.lines
    assert not changed.is_same
    assert changed.lines[0].startswith("one_step/operator/nrmse: ")


def test_a_digest_is_of_the_weights_whatever_wrote_them(run, row, tmp_path):
    copy = shutil.copytree(run.root, tmp_path / "copy")
    path = copy / "checkpoints" / "operator_ema.pt"
    torch.save(torch.load(path), path)

    again = row_of(RunDir.of(copy, copy / "checkpoints"), {}, command="make it", machine="here")

    assert again.digests == row.digests


def test_other_weights_are_named(path, row, run):
    changed = other(row, digests=row.digests | {"operator_ema.pt": "0" * 64})

    found = compare(changed, run, path)

    assert not found.is_same
    assert [line for line in found.lines if "DIFFERS" in line] == ["operator_ema.pt: DIFFERS"]


def test_elsewhere_figures_must_lie_within_the_spread_of_the_seeds(path, row, run):
    error = row.numbers["rollout/summary/operator/mean"]
    elsewhere = other(row, exactness=ELSEWHERE)
    seeds(path, row, [0.9 * error, 1.1 * error])

    near = compare(elsewhere, run, path)
    seeds(path, row, [1.5 * error, 1.5001 * error])
    path.unlink()
    far = compare(elsewhere, run, path)

    assert near.is_same, near.lines
    assert near.lines[-1] == f"all {len(_measured(row))} numbers lie within the spread of the seeds"
    assert not far.is_same
    assert any(line.startswith("rollout/summary/operator/mean: ") for line in far.lines)


def test_elsewhere_one_seed_tells_no_spread(path, row, run):
    found = compare(other(row, exactness=ELSEWHERE), run, path)

    assert not found.is_same
    assert found.lines[-1] == "no spread is known: 1 seed of this row is kept; make others, and compare again"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file; name a row"),
        ("{}", "is no row of results"),
        ("hello", "is no row of results"),
        ("", "is no row of results"),
        ('{"command": "make x", "commit": "a", "machine": "b", "figures": {}}', "make it again: make x"),
        (
            '{"command": "make x", "commit": "a", "machine": "b", "figures": {}, "config": "seed: 0"}',
            "holds neither digests nor numbers to compare; make it again: make x",
        ),
    ],
)
def test_what_cannot_be_reproduced_is_one_sentence(tmp_path, content, said):
    path = tmp_path / "row.json"
    if content is not None:
        path.write_text(content, "utf-8")

    with pytest.raises(BadInput, match=said):
        reproducible_row(path)


def test_the_command_makes_the_run_again_and_says_that_it_is_the_same(ups, path, here):
    done = ups("reproduce", str(path))

    assert done.returncode == 0, done.stderr
    assert "operator_ema.pt: the same bits" in done.stdout
    assert done.stdout.endswith(f"runs/reproduced/smoke-seed0 is the run of {path}\n")


def test_the_command_fails_where_the_run_is_another(ups, run, path, row, here):
    shutil.copytree(run.root, Path("runs") / "reproduced" / path.stem)  # made already, and not made again
    write_row(path, other(row, digests=row.digests | {"operator_ema.pt": "0" * 64}))

    done = ups("reproduce", str(path))

    assert done.returncode == 1
    assert "operator_ema.pt: DIFFERS" in done.stdout
    assert "is not the run of" in done.stderr


def test_elsewhere_a_figure_that_is_not_finite_or_not_there_is_another_run(path, row, run):
    seeds(path, row, [0.1, 0.2, 0.3])
    more = row.numbers | {"rollout/summary/operator/lost": 0.1}
    for one in path.parent.glob("*.json"):
        write_row(one, other(read_row(one), numbers=more))

    found = compare(other(row, numbers=more, exactness=row.exactness | ELSEWHERE), run, path)

    assert not found.is_same
    assert any("operator/lost: was not measured here, or is not finite" in line for line in found.lines)
