"""Checkpoint files: what lies in a .pt, how it is written whole, and what is checked before a weight is used."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from ups_models.archives import DAMAGES, archive_damage, claims_damage
from ups_models.errors import ArchitectureMismatch, CheckpointError
from ups_models.files import FileDigest, known_digest, write_atomically
from ups_models.nn.weights import weights_of
from ups_models.reading import open_file
from ups_models.stages.lineage import SPLIT, Lineage, append_header
from ups_models.stages.spec import Arch, check_architecture
from ups_models.wording import first_line, shortened, shown

FORMAT = 1
TYPES: dict[str, type] = {
    "arch": dict,
    "stage": str,
    "data_recipe": str,
    "config_hash": str,
    "exactness": dict,
    "step": int,
    "ema": dict,
    "optimiser": dict,
}
"""The parts of a payload, and what each must be where it is there."""


def save_payload(path: Path, payload: Mapping[str, Any], lineage: Lineage) -> FileDigest:
    """Write tensors and plain values atomically under a header, and return what identifies the file.

    The archive is written through a file object: by path, its bytes would depend on the file's name.
    """

    def write(file: BinaryIO) -> None:
        try:
            torch.save(dict(payload), file)
            append_header(file, lineage)
        except RuntimeError as error:  # what PyTorch makes of a full disk
            raise OSError(f"PyTorch could not finish the archive: {first_line(error)}") from error

    return write_atomically(path, write)


def load_payload(path: Path, expected: FileDigest | None = None) -> dict[str, Any]:
    """Read a .pt onto the CPU; nothing in it is executed. A raw state_dict is returned under that key.

    torch.load does not notice flipped bits, so the digest is verified first where one is known, and the archive's
    own checksums where none is; what its tables claim is compared with what it holds. Raises CheckpointError, also for
    numbers that are not finite.
    """
    _verify(path, expected)
    try:
        with open_file(path) as file:
            payload = torch.load(file, map_location="cpu", weights_only=True)
    except DAMAGES as error:
        raise CheckpointError(f"{path}: is no checkpoint that can be read ({first_line(error)})") from None
    if isinstance(payload, dict) and _are_weights(payload):
        payload = {"state_dict": payload}
    if not isinstance(payload, dict) or not _are_weights(payload.get("state_dict")):
        raise CheckpointError(f"{path}: holds neither a checkpoint of ours nor the weights of a network")
    _require_types(path, payload)
    _require_finite(path, payload)
    return payload


def save_network(path: Path, net: nn.Module, lineage: Lineage) -> FileDigest:
    """Write a trained network's weights, its fingerprint, and what it descends from."""
    weights = {name: value.detach().cpu().contiguous() for name, value in weights_of(net).items()}
    named = {"stage": lineage.stage, "arch": lineage.arch, "data_recipe": lineage.inputs.get(SPLIT, "")}
    return save_payload(path, {"format": FORMAT, **named, "state_dict": weights}, lineage)


def load_network(
    path: Path,
    net: nn.Module,
    *,
    stage: str,
    arch: Arch,
    expected: FileDigest | None = None,
    is_data_recipe: Callable[[str], bool] | None = None,
) -> None:
    """Copy a checkpoint's weights into `net`, after its stage and architecture are found to be the wanted ones.

    `is_data_recipe` says whether the data and split that the checkpoint names, if any, are the wanted ones. Raises
    CheckpointError, and ArchitectureMismatch where config and checkpoint disagree.
    """
    payload = load_payload(path, expected)
    if payload.get("stage", stage) != stage:
        raise CheckpointError(f"{path}: is a checkpoint of stage {payload['stage']}, not of {stage}")
    trained_on = payload.get("data_recipe")
    if is_data_recipe is not None and trained_on and not is_data_recipe(trained_on):
        raise CheckpointError(
            f"{path}: was trained on other data or another split than the config describes, so rows it has seen could "
            "pass for unseen ones; use the config it was trained with, or evaluate on a file of its own with --data"
        )
    if "arch" in payload:
        check_architecture(path, payload["arch"], arch)
    weights = payload["state_dict"]
    check_shapes(path, weights, net)
    net.load_state_dict(weights)


def check_shapes(path: Path, weights: Mapping[str, Tensor], net: nn.Module) -> None:
    """Compare names and shapes of a state_dict with a network's. Raises ArchitectureMismatch."""
    wanted = {name: tuple(value.shape) for name, value in weights_of(net).items()}
    saved = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(wanted.keys() | saved.keys()):
        if saved.get(name) != wanted.get(name):
            raise ArchitectureMismatch(
                f"Architecture mismatch: {shortened(name)}={shown(saved[name]) if name in saved else 'absent'} vs "
                f"{shortened(name)}={wanted.get(name, 'absent')} "
                f"({path} holds the first, the config asks for the second); use the config it was trained with"
            )


def _require_types(path: Path, payload: Mapping[str, Any]) -> None:
    """Raise CheckpointError where a part that we write is there and of another type."""
    for name, kind in TYPES.items():
        value = payload.get(name)
        if name in payload and (not isinstance(value, kind) or isinstance(value, bool)):
            raise CheckpointError(f"{path}: was not written by this program: its {name!r} is {shown(value)}")
    texts = [payload.get("stage", ""), *payload.get("arch", {}), *payload.get("arch", {}).values()]
    if not all(isinstance(text, int | float) or (isinstance(text, str) and shortened(text) == text) for text in texts):
        raise CheckpointError(f"{path}: was not written by this program: its 'arch' is no table of numbers")


def _require_finite(path: Path, payload: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a NaN or an infinity: every figure made from it would be one too."""
    waiting: list[tuple[str, object]] = list(payload.items())
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(f"{name}.{shortened(key)}", item) for key, item in value.items()]
        elif isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{path}: {name} holds NaN or infinity; train the stage again, or use another file")


def _are_weights(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(tensor, Tensor) for tensor in value.values())


def _verify(path: Path, expected: FileDigest | None) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; train the stage first, or name another file")
    if expected is not None and known_digest(path) != expected:
        raise CheckpointError(f"{path}: its content is not what was saved (sha256 differs); train the stage again")
    damage = archive_damage(path) if expected is None else claims_damage(path)
    if damage is not None:
        raise CheckpointError(f"{path}: is no checkpoint, or a truncated or damaged one ({damage})")
