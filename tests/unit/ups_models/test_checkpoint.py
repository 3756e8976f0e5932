"""Checkpoints: nothing is loaded that is damaged, foreign, or of another architecture."""

import pickle
import resource
import zipfile

import pytest
import torch
from torch import nn

from ups_models.archives import archive_damage
from ups_models.errors import ArchitectureMismatch, CheckpointError
from ups_models.stages.lineage import Lineage
from ups_models.training.checkpoint import load_network, load_payload, save_network

ARCH: dict[str, int | float | str] = {"latent_dim": 32}
LINEAGE = Lineage(stage="operator", arch=ARCH, inputs={"seed": "0"}, config_hash="v2:0", settings={})


def network(width=32):
    return nn.Linear(4, width)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "operator_ema.pt"
    net = network()
    digest = save_network(path, net, LINEAGE)
    return path, net, digest


def test_weights_come_back_exactly(saved):
    path, net, digest = saved
    other = network()

    load_network(path, other, stage="operator", arch=ARCH, expected=digest)

    assert torch.equal(other.weight, net.weight)


def test_equal_weights_make_equal_bytes_whatever_the_name(saved, tmp_path):
    _path, net, digest = saved

    again = save_network(tmp_path / "another_name.pt", net, LINEAGE)

    assert again == digest


def test_another_architecture_is_named_before_a_weight_is_copied(saved):
    path, _, _ = saved
    other = network(64)
    before = other.weight.clone()

    with pytest.raises(ArchitectureMismatch, match="Architecture mismatch: latent_dim=32 vs latent_dim=64"):
        load_network(path, other, stage="operator", arch={"latent_dim": 64})

    assert torch.equal(other.weight, before)


def test_a_raw_state_dict_of_an_old_run_loads_and_is_checked_by_shapes(tmp_path):
    net = network()
    torch.save(net.state_dict(), tmp_path / "old.pt")
    other = network()

    load_network(tmp_path / "old.pt", other, stage="operator", arch=ARCH)

    assert torch.equal(other.weight, net.weight)
    with pytest.raises(ArchitectureMismatch, match=r"bias=\(32,\) vs bias=\(64,\)"):
        load_network(tmp_path / "old.pt", network(64), stage="operator", arch=ARCH)


def test_every_flipped_bit_is_noticed_with_a_digest_and_without(saved):
    path, _, digest = saved
    whole = path.read_bytes()
    silent = []
    for position in range(0, len(whole), max(1, len(whole) // 60)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(bytes(damaged))
        with pytest.raises(CheckpointError):
            load_payload(path, digest)
        if not noticed(path):
            silent.append(position)

    tensor_bytes = [position for position in silent if in_tensor(whole, position)]
    assert tensor_bytes == [], "a weight was changed and nothing was said"


def noticed(path):
    try:
        load_payload(path)
    except CheckpointError:
        return True
    return False


def in_tensor(whole, position):
    import io

    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        for info in archive.infolist():
            start = info.header_offset + 30 + len(info.filename)
            if "/data/" in info.filename and start + 64 <= position < start + info.file_size:
                return True
    return False


@pytest.mark.parametrize("length", [0, 1, 100, 1000])
def test_a_truncated_file_is_refused(saved, length):
    path, _, _ = saved
    path.write_bytes(path.read_bytes()[:length])

    with pytest.raises(CheckpointError, match=r"operator_ema\.pt: is no checkpoint, or a truncated or damaged one"):
        load_payload(path)


def test_a_malicious_pickle_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    trace = tmp_path / "executed"
    path = tmp_path / "evil.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps(Touch(str(trace)), protocol=2))
        archive.writestr("evil/version", "3")

    with pytest.raises(CheckpointError, match=r"evil\.pt"):
        load_payload(path)

    assert not trace.exists()


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize(
    "payload",
    [
        {"arch": "resnet18", "state_dict": {"w": torch.zeros(1)}},
        {"state_dict": {"w": 3}},
        {"state_dict": None},
        {},
        torch.zeros(3),
        {"step": 3, "w": torch.zeros(1)},
    ],
)
def test_a_file_of_another_program_is_refused_in_one_line(tmp_path, payload):
    torch.save(payload, tmp_path / "other.pt")

    with pytest.raises(CheckpointError, match=r"other\.pt: "):
        load_network(tmp_path / "other.pt", network(), stage="operator", arch=ARCH)


def test_a_checkpoint_of_another_stage_is_refused(saved):
    path, _, _ = saved

    with pytest.raises(CheckpointError, match="is a checkpoint of stage operator, not of steady_prior"):
        load_network(path, network(), stage="steady_prior", arch=ARCH)


def test_a_zip_bomb_is_refused_before_it_grows(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data/0", b"\0" * 50_000_000)
        archive.writestr("bomb/data.pkl", b"")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(CheckpointError, match="its entries are compressed"):
        load_payload(path)

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused_by_its_shape(tmp_path):
    net = nn.Linear(4, 4)
    weights = {"weight": torch.zeros(1).expand(10**6, 10**6), "bias": torch.zeros(4)}
    torch.save({"state_dict": weights}, tmp_path / "huge.pt")

    with pytest.raises(CheckpointError, match=r"a tensor of shape \(1000000, 1000000\) claims more than its storage"):
        load_network(tmp_path / "huge.pt", net, stage="operator", arch={})


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value):
    net = network()
    with torch.no_grad():
        net.bias[3] = value
    save_network(tmp_path / "nan.pt", net, LINEAGE)

    with pytest.raises(CheckpointError, match=r"nan\.pt: state_dict\.bias holds NaN or infinity"):
        load_network(tmp_path / "nan.pt", network(), stage="operator", arch=ARCH)


def with_table(path, change):
    """Put another table of tensors into an archive, with checksums that agree."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table[:-20], "not enough data"),
        (lambda table: b"\x80\x02(((((", "pickle"),
        (lambda table: b"\x80\x02]q\x00" + b"]" * 5 + b"a" * 5 + b"s.", ""),
        (lambda table: table.replace(b"K\x80t", b"K\x90t", 1), "claims 144 numbers, which the archive does not hold"),
        (lambda table: table.replace(b"K K\x04\x86", b"K K\x08\x86", 1), "claims more than its storage"),
        (
            lambda table: b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x02\x85R.",
            "names 'builtins bytearray'",
        ),
        (lambda table: b"\x80\x04\x96" + b"\xff" * 8, "bytearray8 byte count"),
    ],
)
def test_a_made_up_table_in_a_sound_archive_is_refused_in_one_line(saved, change, said):
    path, _, _ = saved
    with_table(path, change)

    with pytest.raises(CheckpointError, match=rf"operator_ema\.pt: .*({said})") as caught:
        load_payload(path)

    assert "\n" not in str(caught.value)
    assert archive_damage(path) is not None, "the planner would take it for a whole saved state"


def test_another_entry_in_the_archive_is_no_damage(saved):
    path, net, _ = saved
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/later.json", "{}")

    assert torch.equal(load_payload(path)["state_dict"]["weight"], net.weight)


@pytest.mark.parametrize("part", ["step", "arch", "stage", "optimiser", "exactness"])
def test_a_part_of_another_type_is_refused(tmp_path, part):
    torch.save({"state_dict": network().state_dict(), part: [1]}, tmp_path / "odd.pt")

    with pytest.raises(CheckpointError, match=rf"odd\.pt: was not written by this program: its '{part}'"):
        load_payload(tmp_path / "odd.pt")
