"""Data files put into W&B, and the entries of a config that fetch them again."""

import pytest

from tasks.services.data.digests import digest_in
from tasks.services.data.upload import upload
from tasks.services.tracking.store import download_artifact_file
from ups_models.config.data import WANDB_ARTIFACT
from ups_models.config.schema import TrackingConfig
from ups_models.errors import BadInput

CFG = TrackingConfig(mode="online", entity="researcher")


def test_what_is_uploaded_is_named_by_its_address_and_its_digest(wandb, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", "k")
    for name in ("a.hdf5", "b.hdf5"):
        (tmp_path / name).write_bytes(name.encode())

    found = upload([tmp_path / "a.hdf5", tmp_path / "b.hdf5"], "burgers", CFG, wandb)

    address = "wandb-artifact://researcher/ups-pipeline/burgers:v0"
    assert [download.url for download in found] == [f"{address}/a.hdf5", f"{address}/b.hdf5"]
    [artifact] = wandb.collections["researcher/ups-pipeline/burgers"]
    assert artifact.files == {"a.hdf5": b"a.hdf5", "b.hdf5": b"b.hdf5"}
    assert [run.exit_codes for run in wandb.runs.values()] == [[0]]
    download_artifact_file(found[0].url.removeprefix(WANDB_ARTIFACT), tmp_path / "there", CFG, wandb)
    assert digest_in(tmp_path / "there").sha256 == found[0].sha256


def test_what_would_have_no_address_of_its_own_is_refused(wandb, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", "k")
    for name in ("a b.hdf5", "a.hdf5", "other/a.hdf5"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    for paths, said in (
        (["a b.hdf5"], "rename it"),
        (["a.hdf5", "other/a.hdf5"], "two files have one name"),
        (["nowhere.hdf5"], r"nowhere\.hdf5: no such file"),
        (["other"], "is a folder"),
    ):
        with pytest.raises(BadInput, match=said):
            upload([tmp_path / path for path in paths], "data", CFG, wandb)
    assert wandb.runs == {}


def test_without_a_key_it_says_so(wandb, tmp_path):
    with pytest.raises(BadInput, match="put it into WANDB_API_KEY"):
        upload([tmp_path / "a.hdf5"], "data", TrackingConfig(), wandb)
