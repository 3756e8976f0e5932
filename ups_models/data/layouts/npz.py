"""NumPy's .npz as a file of plain arrays."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from ups_models.data.layouts.arrays import array_names, look_at
from ups_models.data.layouts.hdf5 import require_memory
from ups_models.data.layouts.source import Source
from ups_models.errors import DataError, UPSError
from ups_models.problems.problem import Problem
from ups_models.reading import open_file
from ups_models.wording import first_line, plain

SUFFIX = ".npz"
HEADER_LIMIT, MAX_ENTRIES = 10_000, 100
DAMAGES = (zipfile.BadZipFile, ValueError, OSError, EOFError, RuntimeError, NotImplementedError, LookupError)
"""What zipfile, zlib and NumPy make of bytes that somebody made up."""


@contextmanager
def open_npz(path: Path, wanted: Problem | None) -> Iterator[Source]:
    """What a .npz of plain arrays says; nothing in it is unpickled. Raises DataError."""
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            entries = _arrays_in(path, archive)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Name a data file") from None
    except UPSError:
        raise
    except DAMAGES as error:
        raise DataError(f"{path}: no .npz that can be read ({first_line(error)}). Write it with numpy.savez") from None
    names = array_names(wanted)
    flat = {name: value.reshape(-1) if value.shape[1:] == (1,) else value for name, value in entries.items()}
    said = {name: value for name, value in flat.items() if value.ndim <= 1 and name not in names}
    yield look_at(
        path, entries, {name: value.item() if value.ndim == 0 else value for name, value in said.items()}, wanted
    )


def _arrays_in(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    """Every array by its name, after a look at how large it claims to be."""
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise DataError(f"{path}: holds {len(entries)} arrays, more than {MAX_ENTRIES}. Write one array for all")
    found: dict[str, Any] = {}
    for entry in entries:
        name = plain(entry.filename.removesuffix(".npy"))
        require_memory(path, name, entry.file_size)
        with archive.open(entry) as stream:
            head = io.BytesIO(stream.read(HEADER_LIMIT))
            shape, is_fortran, dtype = _header(head)
            if dtype.hasobject:
                raise DataError(f"{path}: array '{name}' holds Python objects, which are not read. Write numbers")
            if prod(shape) * dtype.itemsize + head.tell() != entry.file_size:
                raise DataError(f"{path}: array '{name}' claims another size than it has. Write it with numpy.savez")
            content = head.read() + stream.read()
        values = np.frombuffer(content, dtype)
        found[name] = values.reshape(shape, order="F" if is_fortran else "C")
    return found


def _header(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"an array of format {version}")
    return read(file, max_header_size=HEADER_LIMIT)
