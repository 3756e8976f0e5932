"""Whole sets of checkpoints: what is in one, what is refused, and what must not be overwritten."""

import json
import shutil

import pytest
import torch

from tasks.services.checkpoints.sets import (
    RestoredSet,
    install_set,
    is_newer,
    signature_of,
    take_snapshot,
    verify_set,
    write_manifest,
)
from tasks.services.run.paths import MANIFEST, STATUS, RunDir
from tasks.services.run.status import StatusStore, WandbRecord, read_status
from tasks.services.tracking.restoring import check
from ups_models.errors import ArchitectureMismatch, BadInput, CheckpointError
from ups_models.files import digest_of
from ups_models.stages.spec import SPECS

WEIGHTS = {name for spec in SPECS.values() for name in spec.files}
RECORD = WandbRecord(id="r", project="p", entity="e")


@pytest.fixture
def folder(run, tmp_path):
    """A sealed set of a finished run."""
    take_snapshot(run, tmp_path / "set")
    write_manifest(tmp_path / "set")
    return tmp_path / "set"


def empty_run(tmp_path, smoke):
    return RunDir.of(tmp_path / "new", smoke.checkpoint.dir)


def stage_file(run, **stages):
    """The run's status with these values of some stages changed."""
    raw = json.loads(run.status.read_text("utf-8"))
    for name, values in stages.items():
        raw["stages"][name].update(values)
    run.status.write_text(json.dumps(raw), encoding="utf-8")


def test_a_set_holds_every_file_that_the_status_names_and_their_digests(run, folder):
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))

    assert manifest.keys() == WEIGHTS | {STATUS, "metrics.jsonl"}
    assert manifest["operator.pt"]["sha256"] == digest_of(run.checkpoint("operator.pt")).sha256


def test_an_unchanged_run_gives_the_same_bytes(run, folder, tmp_path):
    take_snapshot(run, tmp_path / "again")
    write_manifest(tmp_path / "again")

    for path in folder.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(folder)).read_bytes()


def test_a_stage_in_progress_brings_its_saved_state(run, tmp_path):
    stage_file(run, diff_residual={"status": "in_progress", "step": 5, "files": None})
    run.resume("diff_residual").parent.mkdir()
    run.resume("diff_residual").write_bytes(b"state")

    take_snapshot(run, tmp_path / "set")

    assert (tmp_path / "set" / "resume" / "diff_residual.pt").read_bytes() == b"state"
    assert not (tmp_path / "set" / "diffusion_residual.pt").exists()


def test_a_verified_set_makes_a_run_that_is_complete(run, folder, tmp_path, smoke, own):
    new = own(empty_run(tmp_path, smoke))

    install_set(verify_set(folder, smoke, "ckpt:v0"), new, RECORD)

    status = read_status(new.status)
    assert status.is_trained()
    assert status.wandb == RECORD
    assert {name: digest_of(new.checkpoint(name)) for name in WEIGHTS} == {
        name: digest_of(run.checkpoint(name)) for name in WEIGHTS
    }
    assert not folder.exists()


@pytest.mark.parametrize("name", ["operator_ema.pt", STATUS, MANIFEST])
def test_one_flipped_bit_in_a_set_is_noticed(folder, smoke, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).unlink()
    (folder / name).write_bytes(content)

    with pytest.raises(CheckpointError):
        verify_set(folder, smoke, "ckpt:v0")


def test_a_missing_file_is_noticed(folder, smoke):
    (folder / "operator.pt").unlink()

    with pytest.raises(CheckpointError, match=r"operator\.pt did not arrive"):
        verify_set(folder, smoke, "ckpt:v0")


@pytest.mark.parametrize("name", ["../../outside.pt", "/etc/passwd", "other.pt", "resume/../../x.pt"])
def test_a_manifest_that_names_a_file_which_is_not_ours_is_refused(folder, smoke, name):
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    manifest[name] = manifest["operator.pt"]
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")

    with pytest.raises(CheckpointError, match="does not belong in a set"):
        verify_set(folder, smoke, "ckpt:v0")


def test_a_status_that_names_other_weights_than_the_set_holds_is_refused(run, tmp_path, smoke):
    take_snapshot(run, tmp_path / "set")
    (tmp_path / "set" / "operator.pt").unlink()
    shutil.copy(run.checkpoint("steady_prior.pt"), tmp_path / "set" / "operator.pt")
    write_manifest(tmp_path / "set")

    with pytest.raises(CheckpointError, match=r"names another operator\.pt"):
        verify_set(tmp_path / "set", smoke, "ckpt:v0")


def test_another_architecture_is_named(folder, smoke):
    other = smoke.model_copy(update={"latent": smoke.latent.model_copy(update={"dim": 8})})

    with pytest.raises(ArchitectureMismatch, match="latent_dim=4 vs latent_dim=8"):
        verify_set(folder, other, "ckpt:v0")


def test_a_run_that_is_further_is_kept(run, folder, smoke):
    restored = verify_set(folder, smoke, "ckpt:v0")

    assert not is_newer(restored, run, force=False)
    assert is_newer(restored, run, force=True)


def test_a_run_that_is_behind_is_replaced(run, folder, smoke):
    restored = verify_set(folder, smoke, "ckpt:v0")
    stage_file(run, steady_prior={"status": "in_progress", "step": 5, "files": None})

    assert is_newer(restored, run, force=False)


def test_a_run_of_other_weights_is_not_overwritten_without_force(run, folder, smoke):
    restored = verify_set(folder, smoke, "ckpt:v0")
    other = {name: {"sha256": "f" * 64, "bytes": 1} for name in SPECS["operator"].files}
    stage_file(run, operator={"files": other})

    with pytest.raises(BadInput, match=r"another operator.*--force"):
        is_newer(restored, run, force=False)


def test_a_run_that_is_further_in_one_stage_and_behind_in_another_is_not_overwritten(run, folder, smoke):
    raw = json.loads((folder / STATUS).read_text("utf-8"))
    del raw["stages"]["steady_prior"]
    (folder / STATUS).unlink()
    (folder / STATUS).write_text(json.dumps(raw), encoding="utf-8")
    write_manifest(folder)
    restored = verify_set(folder, smoke, "ckpt:v0")
    stage_file(run, operator={"status": "in_progress", "step": 5, "files": None})

    with pytest.raises(BadInput, match=r"other stages.*--force"):
        is_newer(restored, run, force=False)


def test_a_crash_while_installing_leaves_files_that_nothing_trusts(run, folder, tmp_path, smoke):
    restored = verify_set(folder, smoke, "ckpt:v0")
    broken = RestoredSet(restored.folder, restored.status, restored.origin)
    run.status.write_bytes(run.status.read_bytes())
    (run.checkpoints / "steady_prior_ema.pt").unlink()
    (run.checkpoints / "steady_prior_ema.pt").mkdir()  # so that moving a file there fails

    with pytest.raises(OSError):  # noqa: PT011 - which one depends on the system
        install_set(broken, run, RECORD)

    assert not run.status.exists()


def test_the_signature_tells_progress_and_nothing_else(run):
    before = read_status(run.status)
    StatusStore(run).record_wandb(RECORD)
    unchanged = read_status(run.status)
    stage_file(run, steady_prior={"status": "in_progress", "step": 5})

    assert signature_of(before) == signature_of(unchanged)
    assert signature_of(before) != signature_of(read_status(run.status))


def old_run(run, folder, *, status):
    """The files that an old version left: raw weights, and a status by hand."""
    folder.mkdir()
    for name in ("operator.pt", "operator_ema.pt", "diffusion_residual.pt", "diffusion_residual_ema.pt"):
        weights = torch.load(run.checkpoint(name), weights_only=True)["state_dict"]
        with (folder / name).open("wb") as file:
            torch.save(weights, file)
    if status:
        (folder / STATUS).write_text(json.dumps(status), encoding="utf-8")
    return folder


def test_files_of_an_old_run_count_where_its_status_calls_them_final(run, tmp_path, smoke, caplog):
    status = {
        "schema_version": 1,
        "created_at": "2025-10-28T12:00:00Z",
        "stages": {
            "operator": {"status": "completed", "checkpoint": "operator_ema.pt"},
            "diff_residual": {"status": "in_progress", "epoch": 3},
        },
    }

    restored = check(old_run(run, tmp_path / "old", status=status), "files of p/r", smoke)

    assert {name: record.status for name, record in restored.status.stages.items()} == {"operator": "completed"}
    assert "nothing says that its diffusion_residual_ema.pt is the final one" in caplog.text
    assert not (tmp_path / "old" / "diffusion_residual.pt").exists()


def test_files_of_an_old_run_without_a_status_are_not_called_completed(run, tmp_path, smoke, caplog):
    restored = check(old_run(run, tmp_path / "old", status=None), "files of p/r", smoke)

    assert restored.status.stages == {}
    assert "nothing says that its operator_ema.pt is the final one" in caplog.text


def test_a_file_of_an_old_run_that_cannot_be_read_is_trained_again(run, tmp_path, smoke, caplog):
    status = {"schema_version": 1, "stages": {"operator": {"status": "completed"}}}
    folder = old_run(run, tmp_path / "old", status=status)
    (folder / "operator_ema.pt").write_bytes(b"half a file")

    restored = check(folder, "files of p/r", smoke)

    assert restored.status.stages == {}
    assert "operator will be trained" in caplog.text
