"""HDF5 files from anywhere: opened only where they hold all of their data themselves, and no less than they claim."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ups_models.data.chunks import chunks
from ups_models.errors import DataError, UPSError
from ups_models.reading import Unreadable, require_regular
from ups_models.wording import plain, shortened, shown

MOST_DEFLATED = 1100
"""No filter of HDF5 makes data smaller by more: deflate's limit is 1032."""
SPACING_TOLERANCE = 1e-2  # of one cell: float32 coordinates are uniform to about 1e-4
MOST_NAMES, GIGABYTE = 12, 1_000_000_000
ONE_FILE = "Copy it into one file that holds its data itself, for example with h5repack"
DAMAGES = (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, OverflowError)
"""What h5py makes of headers that are damaged."""


Array = npt.NDArray[Any]


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """A file that is open for reading; whatever HDF5 cannot read becomes a DataError.

    In 17 000 files with flipped bits, HDF5 2.0 neither crashed nor took longer than 3 s, so it reads in this process.
    External links, virtual data sets and external storage would read files that nobody named: refused.
    """
    try:
        require_regular(path)
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file. Create it with: ups data generate, or download it from PDEBench"
        ) from None
    except Unreadable as error:
        raise DataError(f"{error}. Name a data file") from None
    if not h5py.is_hdf5(path):
        raise DataError(
            f"{path}: not an HDF5 file. Give one of PDEBench, The Well or plain arrays, or run: ups data generate"
        )
    try:
        with h5py.File(path, "r") as file:
            _require_own_links(path, file)
            yield file
    except UPSError:
        raise
    except MemoryError:
        raise DataError(
            f"{path}: does not fit into the memory that is free. Use data.limit, or a smaller file"
        ) from None
    except DAMAGES as error:
        reason = shortened(" ".join(str(error).split()) or type(error).__name__, 200)
        raise DataError(f"{path}: truncated or damaged HDF5 file ({reason}). Download or generate it again") from error


def require_own_data(path: Path, name: str, dataset: h5py.Dataset) -> None:
    """Raise DataError for a dataset whose values are in another file, or not there in full."""
    if dataset.is_virtual:
        raise DataError(f"{path}: dataset '{name}' is virtual: its values are in other files. {ONE_FILE}")
    if dataset.external:
        raise DataError(f"{path}: dataset '{name}' keeps its values in other files (external storage). {ONE_FILE}")
    claimed, held = prod(dataset.shape) * dataset.dtype.itemsize, dataset.id.get_storage_size()
    factor = MOST_DEFLATED if dataset.id.get_create_plist().get_nfilters() else 1
    if claimed > held * factor or _lacks_chunks(dataset):
        raise DataError(
            f"{path}: dataset '{name}' claims {claimed:,} bytes, but the file holds {held:,} of it. Download or "
            "generate it again"
        )
    require_memory(path, name, claimed // max(1, dataset.shape[0]))


def require_memory(path: Path, name: str, n_bytes: int) -> None:
    """Raise DataError where what is to be read exceeds all the memory of this machine."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if n_bytes > total:
        raise DataError(
            f"{path}: dataset '{name}' needs {n_bytes / GIGABYTE:,.0f} GB of memory, and this machine has "
            f"{total / GIGABYTE:,.0f} GB. Use data.limit, or a larger data.reduced_resolution"
        )


def floats_in(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset of floats that the file holds itself. Raises DataError."""
    found = file.get(name)
    if not isinstance(found, h5py.Dataset) or found.dtype.kind != "f":
        raise DataError(f"{path}: dataset '{plain(name)}' is missing, or no floats; the file has {names_in(file)}")
    require_own_data(path, name, found)
    return found


def bytes_of_row(dataset: h5py.Dataset) -> int:
    """The size of one row, before it is read."""
    return int(dataset.dtype.itemsize * prod(dataset.shape[1:]))


def read_rows(path: Path, name: str, dataset: h5py.Dataset, n: int, inner: tuple[slice, ...]) -> Tensor:
    """The first n rows of a dataset, thinned out by `inner`, as float32; read in chunks, never as a whole.

    Raises DataError for what is not finite, and for what no memory here can hold.
    """
    pieces = []
    kept = [len(range(*part.indices(size))) for part, size in zip(inner, dataset.shape[1:], strict=True)]
    require_memory(path, name, 4 * n * prod(kept))
    for rows in chunks(n, bytes_of_row(dataset)):
        # HDF5 thins out the leading dimension fast and the last one slowly: that one is left to numpy
        values = as_float32(dataset[(slice(rows.start, rows.stop), *inner[:-1])][..., inner[-1]])
        is_bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if is_bad.any():
            first = rows.start + int(is_bad.argmax())
            raise DataError(
                f"{path}: dataset '{name}' has NaN or Inf, first in row {first}. Remove it or generate it again"
            )
        pieces.append(torch.from_numpy(np.ascontiguousarray(values)))
    return torch.cat(pieces)


def as_float32(values: Array) -> Array:
    """What is too large for a float32 becomes infinite, which is refused where it is read."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(values.astype(np.float32))


def is_uniform(values: Array) -> bool:
    """Whether a coordinate (X,) is finite, increasing and equally spaced."""
    if not np.isfinite(values).all():
        return False
    steps = np.diff(values.astype(np.float64))
    if len(steps) == 0:
        return True
    return bool(steps.mean() > 0 and np.abs(steps - steps.mean()).max() <= SPACING_TOLERANCE * steps.mean())


def names_in(file: Iterable[str]) -> str:
    """The names of what a file holds, for a message."""
    names = sorted(plain(name) for name in file)
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{[shortened(name) for name in names[:MOST_NAMES]]}{more}"


def _require_own_links(path: Path, file: h5py.File) -> None:
    """Raise DataError for a link that leads out of the file, at any depth."""

    def leads_out(name: bytes, info: h5py.h5l.LinkInfo) -> bytes | None:
        return None if info.type in (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT) else name

    name = file.id.links.visit(leads_out, info=True)
    if name is not None:
        shown_name = shown(name.decode("utf-8", "replace"))
        raise DataError(f"{path}: {shown_name} is a link to another file. {ONE_FILE}")


def _lacks_chunks(dataset: h5py.Dataset) -> bool:
    """Whether some of its chunks were never written: they would be read as zeros."""
    if dataset.chunks is None:
        return False
    wanted = prod(-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    return bool(dataset.id.get_num_chunks() != wanted)
