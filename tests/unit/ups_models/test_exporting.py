"""A surrogate in one file: the same numbers from it as from the run, wherever it is read."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ups_models import load_surrogate
from ups_models.errors import BadInput, CheckpointError

FIELD = np.sin(2 * np.pi * np.arange(64) / 64).astype(np.float32)


@pytest.fixture
def exported(finished_run, tmp_path, ups):
    path = tmp_path / "a.safetensors"
    assert ups("export", str(finished_run), "--to", str(path)).returncode == 0
    return path


def test_a_file_gives_what_the_run_gives(exported, finished_run):
    here, there = load_surrogate(exported), load_surrogate(finished_run)

    for members in (None, 3):
        one, other = (each.rollout(FIELD, steps=4, members=members, seed=2) for each in (here, there))
        assert np.array_equal(one.u, other.u)
    assert here.trained_on == there.trained_on
    assert list(here.samplers) == list(there.samplers)


def test_its_header_says_what_it_is_in_json(exported):
    with safe_open(exported, "pt") as file:
        header = json.loads(file.metadata()["ups"])

    assert header["self_contained"]
    assert header["config"]["data"]["family"] == "burgers1d"
    assert header["trained_on"]["points"] == [64]


def test_equal_surrogates_make_equal_files(exported, finished_run, tmp_path, ups):
    ups("export", str(finished_run), "--to", str(tmp_path / "b.safetensors"))

    assert (tmp_path / "b.safetensors").read_bytes() == exported.read_bytes()


def test_the_operators_step_runs_without_our_code_on_any_batch(finished_run, tmp_path, ups):
    done = ups("export", str(finished_run), "--to", str(tmp_path / "step.pt2"))
    assert done.returncode == 0, done.stderr
    surrogate = load_surrogate(finished_run)

    about = {"about.json": ""}
    step = torch.export.load(tmp_path / "step.pt2", extra_files=about).module()
    assert json.loads(about["about.json"])["parameters"] == "(B, 2) float32: ln Nu, ln dt"
    assert "parameters: (B, 2) float32: ln Nu, ln dt, with dt = 0.05" in done.stdout

    u, known = torch.randn(5, 1, 64), torch.tensor([[0.1, surrogate.dt]]).log().expand(5, 2)
    assert np.allclose(step(u, known).numpy(), surrogate.step(u, nu=0.1), atol=1e-5)


def spoilt(path):
    path.write_bytes(path.read_bytes()[:-100])


def with_a_bit_turned(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def foreign(path):
    save_file({"a": torch.zeros(3)}, path)


def of_another_format(path):
    save_file({"operator/a": torch.zeros(3)}, path, {"ups": json.dumps({"format": 9, "config": {}})})


def of_another_config(path):
    header = {"format": 1, "config": {"latent": {"dim": 0}}, "trained_on": {}, "needs": {}}
    save_file({"operator/a": torch.zeros(3)}, path, {"ups": json.dumps(header)})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoilt, "is no surrogate that ups export has written"),
        (with_a_bit_turned, r"is damaged \(its sha256 differs\); export it again"),
        (foreign, "is no surrogate that ups export has written"),
        (of_another_format, "was exported in format 9, expected 1"),
        (of_another_config, "its config is none that this version reads"),
    ],
)
def test_what_is_no_such_file_is_one_line(exported, spoil, message):
    spoil(exported)

    with pytest.raises(CheckpointError, match=rf"a\.safetensors: {message}") as caught:
        load_surrogate(exported)

    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_not_written(finished_run, tmp_path, ups):
    done = ups("export", str(finished_run), "--to", str(tmp_path / "a.pt"))

    assert done.returncode == 2
    assert "name it *.safetensors (a whole surrogate) or *.pt2" in done.stderr


def test_what_is_no_run_is_not_exported(tmp_path, ups):
    done = ups("export", str(tmp_path), "--to", str(tmp_path / "a.safetensors"))

    assert done.returncode == 2
    assert "is no run" in done.stderr
    with pytest.raises(BadInput):
        load_surrogate(tmp_path)
