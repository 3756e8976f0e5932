"""The identity of data files: the whole content, read once, kept beside the file while that is what it was."""

import json
import os

from tasks.services.data.digests import PREFIX, digest_in, identity_of, is_sampled, sampled_identity_of
from ups_models.files import digest_of

SIZE = 10_000_000


def data_file(folder, name="a.hdf5"):
    path = folder / name
    path.write_bytes(os.urandom(1000) * (SIZE // 1000))
    return path


def beside(path):
    return path.with_name(f".{path.name}.digest.json")


def test_every_byte_counts(tmp_path):
    path = data_file(tmp_path)
    before, sampled = identity_of([path]), sampled_identity_of([path])

    with path.open("r+b") as file:  # between two blocks that the first edition looked at
        file.seek(100_000)
        file.write(b"\xff" * 20_000)

    assert sampled_identity_of([path]) == sampled
    assert identity_of([path]) != before


def test_files_count_in_their_order_and_a_missing_one_is_no_identity(tmp_path):
    one, other = data_file(tmp_path), data_file(tmp_path, "b.hdf5")

    assert identity_of([one, other]) != identity_of([other, one])
    assert identity_of([one, tmp_path / "c.hdf5"]) is None


def test_a_digest_is_kept_beside_its_file_and_believed_while_the_file_is_the_same(tmp_path):
    path = data_file(tmp_path)
    digest_in(path, keep=True)
    record = json.loads(beside(path).read_text("utf-8"))
    assert record["sha256"] == digest_of(path).sha256

    path.write_bytes(b"other content")

    assert digest_in(path, keep=True) == digest_of(path)
    assert json.loads(beside(path).read_text("utf-8"))["sha256"] == digest_of(path).sha256


def test_nothing_is_written_unless_it_is_to_be_kept(tmp_path):
    identity_of([data_file(tmp_path)])

    assert [path.name for path in tmp_path.iterdir()] == ["a.hdf5"]


def test_a_record_that_is_no_record_is_not_believed(tmp_path):
    path = data_file(tmp_path)
    for nonsense in ("", "{", "[]", '{"sha256": 1}', '{"stamp": 3, "sha256": "x"}'):
        beside(path).write_text(nonsense, encoding="utf-8")
        copy = path.replace(tmp_path / "moved")
        path = copy.replace(path)  # another time of change: what this process remembers does not count
        assert digest_in(path) == digest_of(path)


def test_identities_of_the_first_edition_are_told_apart(tmp_path):
    path = data_file(tmp_path)

    whole, sampled = identity_of([path]) or "", sampled_identity_of([path]) or ""

    assert whole.startswith(PREFIX)
    assert not is_sampled(whole)
    assert is_sampled(sampled)
