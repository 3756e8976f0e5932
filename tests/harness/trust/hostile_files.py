"""Files that somebody made up, given to the product's readers: `python -m harness.trust.hostile_files [COUNT]`."""

import io
import random
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from harness.data_files import WRITERS
from harness.trust.cases import Case, Count, changed, count_of
from harness.trust.hostile_texts import texts
from ups_models.data.inspect import inspect
from ups_models.data.layouts.pdebench import load_steady
from ups_models.data.layouts.reading import load_fields, problem_in
from ups_models.problems.registry import BURGERS, DARCY, EVOLVING
from ups_models.stages.lineage import Lineage
from ups_models.training.checkpoint import load_network, save_network

ARCH: dict[str, int | float | str] = {"latent_dim": 8}
LINEAGE = Lineage(stage="operator", arch=ARCH, inputs={"seed": "0"}, config_hash="v2:0", settings={})


def counts(n: int = 60, seed: int = 0) -> dict[str, Count]:
    """Of n fuzzed HDF5 headers, n malformed archives and n hostile texts, each read in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        kinds: dict[str, Callable[[Path, int, int], Iterator[Case]]] = {
            "HDF5 headers": headers,
            "archives": archives,
            "texts": texts,
        }
        return {name: count_of(make(Path(folder), n, seed)) for name, make in kinds.items()}


# ------------------------------------------------------------------------------------------------ HDF5 headers


def headers(folder: Path, n: int, seed: int) -> Iterator[Case]:
    """HDF5 files with flipped bits where their tables are, and some that lead elsewhere."""
    rng = random.Random(seed)
    whole = [_data_file(folder / f"data{kind}.hdf5", kind) for kind in range(6)]
    for name, write in WRITERS.items():
        write(folder / name)
        whole.append((folder / name).read_bytes())
    for number in range(n):
        path = folder / f"header{number}_Nu0.1.hdf5"
        if number % 6 == 5:
            _file_that_leads_elsewhere(path, number // 6)
        else:
            content = bytearray(rng.choice(whole))
            end = min(len(content), rng.choice([200, 1000, 2500, len(content)]))
            for _ in range(rng.choice([1, 1, 2, 4, 8])):
                content[rng.randrange(end)] = rng.choice([0, 255, 127, rng.randrange(256)])
            path.write_bytes(content)
        yield Case(path.name, path, _read_data)


def _data_file(path: Path, kind: int) -> bytes:
    layouts: list[dict[str, Any]] = [{}, {"chunks": (2, 3, 8)}, {"chunks": (2, 3, 8), "compression": "gzip"}]
    with h5py.File(path, "w", libver="latest" if kind % 2 else None) as file:
        file.attrs["Nu"] = 0.1
        values = np.random.default_rng(kind).random((6, 5, 16), dtype=np.float32)
        file.create_dataset("tensor", data=values, **layouts[kind % 3])
        _coordinates(file)
    return path.read_bytes()


def _coordinates(file: h5py.File) -> None:
    file["x-coordinate"] = (np.arange(16, dtype=np.float32) + 0.5) / 16
    file["t-coordinate"] = np.arange(6, dtype=np.float32)


def _file_that_leads_elsewhere(path: Path, kind: int) -> None:
    with h5py.File(path, "w") as file:
        _coordinates(file)
        match kind % 6:
            case 0:
                file["tensor"] = h5py.ExternalLink(str(path.with_name("data0.hdf5")), "tensor")
            case 1:
                layout = h5py.VirtualLayout((6, 5, 16), "f4")
                layout[:] = h5py.VirtualSource("missing.hdf5", "tensor", (6, 5, 16))
                file.create_virtual_dataset("tensor", layout)
            case 2:
                whole = h5py.h5f.UNLIMITED
                file.create_dataset("tensor", (6, 5, 16), "f4", external=[("/etc/passwd", 0, whole)])
            case 3:
                file.create_dataset("tensor", (10**6, 10**4, 100), "f4", chunks=(1, 100, 100), compression="gzip")
            case 4:
                file["tensor"], file["other"] = h5py.SoftLink("/other"), h5py.SoftLink("/tensor")
            case _:
                file.create_dataset("tensor", (10**6, 10**4, 100), "f4")


def _read_data(path: Path) -> None:
    inspect(path)
    says = problem_in(path)
    if says == DARCY.name:
        load_steady([path])
    else:
        load_fields([path], EVOLVING.get(says or "", BURGERS))


# ---------------------------------------------------------------------------------------------------- archives


def archives(folder: Path, n: int, seed: int) -> Iterator[Case]:
    """Checkpoints with flipped bits, with a table of tensors that somebody made up, and with NaN weights."""
    rng, net = random.Random(seed), torch.nn.Linear(4, 8)
    save_network(folder / "whole.pt", net, LINEAGE)
    whole = (folder / "whole.pt").read_bytes()

    def read(path: Path) -> None:
        load_network(path, torch.nn.Linear(4, 8), stage="operator", arch=ARCH)

    for number in range(n):
        path = folder / f"archive{number}.pt"
        match number % 4:
            case 0:
                path.write_bytes(changed(whole, rng))
            case 1 if number % 8 == 1:
                _odd_payload(path, number // 8)
            case _:
                path.write_bytes(_with_table(whole, lambda table: changed(table, rng)))
        yield Case(path.name, path, read)


def _with_table(archive: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The archive with another table of tensors, and checksums that agree."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(made, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            new.writestr(entry.filename, change(content) if entry.filename.endswith("data.pkl") else content)
    return made.getvalue()


def _odd_payload(path: Path, kind: int) -> None:
    weights = {"weight": torch.zeros(8, 4), "bias": torch.zeros(8)}
    match kind % 4:
        case 0:
            weights["weight"] = torch.zeros(1).expand(10**6, 10**6)
        case 1:
            weights["weight"][0, 0] = torch.nan
        case 2:
            weights["bias"][0] = torch.inf
        case _:
            torch.save({"state_dict": weights, "arch": {"latent_dim": [[]]}, "stage": 3}, path)
            return
    torch.save({"state_dict": weights, "arch": ARCH, "stage": "operator"}, path)


def main(arguments: list[str]) -> int:
    """Print the counts; 0 when nothing hung and nothing printed a traceback."""
    found = counts(int(arguments[0]) if arguments else 60)
    for name, count in found.items():
        print(f"{name}: {count}")
    return int(any(count.tracebacks or count.hangs for count in found.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
