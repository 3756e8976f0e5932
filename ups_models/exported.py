"""One file that holds a trained surrogate: safetensors with a JSON header, nothing in it is executed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ups_models.config.faults import fault_of
from ups_models.config.schema import PipelineConfig
from ups_models.errors import CheckpointError
from ups_models.files import write_atomically
from ups_models.nn.weights import digest_of
from ups_models.own_code import is_reference, own_code
from ups_models.reading import Unparsable, parse_json, require_regular
from ups_models.stages.spec import SPECS
from ups_models.wording import first_line, shortened

SUFFIX, HEADER, FORMAT = ".safetensors", "ups", 1


@dataclass(frozen=True)
class Exported:
    """What such a file holds.

    Attributes:
        cfg: The config that the networks were trained with.
        weights: Their weights, by stage.
        trained_on: Grid, time step and ranges of the parameters.
        needs: Code of the user's, by the file's name, and its digest; empty where the file is self-contained.
    """

    cfg: PipelineConfig
    weights: Mapping[str, Mapping[str, Tensor]]
    trained_on: Mapping[str, Any]
    needs: Mapping[str, str]


def write_export(path: Path, exported: Exported) -> None:
    """Write it whole, or not at all; equal surrogates make equal files. Raises StorageError."""
    header = {
        "format": FORMAT,
        "config": _without_files(exported.cfg),
        "trained_on": dict(exported.trained_on),
        "needs": dict(exported.needs),
        "self_contained": not exported.needs,
    }
    tensors = {
        f"{stage}/{name}": value.contiguous()
        for stage, weights in exported.weights.items()
        for name, value in weights.items()
    }
    header["sha256"] = _digest(header, tensors)
    content = save(tensors, {HEADER: json.dumps(header, sort_keys=True)})
    write_atomically(path, partial(_write, content))


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Of all that the file holds."""
    facts = {name: value for name, value in header.items() if name != "sha256"}
    return hashlib.sha256(f"{json.dumps(facts, sort_keys=True)}{digest_of(tensors)}".encode()).hexdigest()


def _without_files(cfg: PipelineConfig) -> dict[str, Any]:
    """The config as a surrogate needs it: how its data were read is of no use to it, nor is the code that read them."""
    return cfg.model_copy(update={"data": cfg.data.model_copy(update={"layout": None})}).model_dump(mode="json")


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def read_export(path: Path) -> Exported:
    """Read one back. Raises CheckpointError for what is none, or was written by another version."""
    try:
        require_regular(path)
        with safe_open(path, "pt") as file:
            header = parse_json((file.metadata() or {}).get(HEADER, ""))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if header["format"] != FORMAT:
            raise CheckpointError(f"{path}: was exported in format {shortened(header['format'])}, expected {FORMAT}")
        if header.get("sha256") not in (None, _digest(header, tensors)):  # earlier versions wrote none
            raise CheckpointError(f"{path}: is damaged (its sha256 differs); export it again")
        weights: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            stage, _, inner = name.partition("/")
            weights.setdefault(stage, {})[inner] = value
        cfg = PipelineConfig.model_validate(header["config"])
        return Exported(cfg, weights, dict(header["trained_on"]), dict(header["needs"]))
    except ValidationError as error:
        raise CheckpointError(
            f"{path}: its config is none that this version reads: {fault_of(error).message}"
        ) from None
    except (SafetensorError, Unparsable, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: is no surrogate that ups export has written ({first_line(error)})") from None


def require_same_code(exported: Exported, path: Path) -> None:
    """Raise CheckpointError where code of the user's that the file needs is another one here."""
    here = needs_of(exported.cfg)
    other = sorted(name for name, digest in exported.needs.items() if here.get(name) != digest)
    if other:
        raise CheckpointError(
            f"{path}: {other[0]} is not what the surrogate was trained with; put back the file that was, or export "
            "again from a run that was trained with this one"
        )


def needs_of(cfg: PipelineConfig) -> dict[str, str]:
    """Code of the user's that a surrogate of this config cannot do without, and its digest."""
    texts = (cfg.data.family, *(section.network or "" for section in (cfg.operator, cfg.denoiser, cfg.prior)))
    return {(one := own_code(text)).file.name: one.digest for text in texts if is_reference(text)}


def stages_of(exported: Exported) -> tuple[str, ...]:
    """The stages whose networks it holds."""
    return tuple(stage for stage in SPECS if stage in exported.weights)
