"""What a .pt archive claims to hold, compared with what it holds, before PyTorch reads it."""

import io
import pickle
import pickletools
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from ups_models.reading import MEGABYTE, Unreadable, open_file
from ups_models.wording import first_line, shown

TABLE_LIMIT, MOST_DIMENSIONS = 4 * MEGABYTE, 64
"""The table of a checkpoint's tensors takes a few kB; their numbers lie beside it."""
ALLOWED = frozenset({"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"})
ITEM_BYTES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}
# fmt: off
OPCODES = frozenset([
    "PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1",
    "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2",
    "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "BINGET", "LONG_BINGET",
    "BINPUT", "LONG_BINPUT", "BINPERSID"
])
# fmt: on
"""What PyTorch writes, and all that is read here."""
DAMAGES = (
    zipfile.BadZipFile,
    zlib.error,
    pickle.UnpicklingError,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    RuntimeError,
    MemoryError,
    AssertionError,
    NotImplementedError,
)
"""What zipfile, pickle and PyTorch make of bytes that somebody made up."""


def archive_damage(path: Path) -> str | None:
    """What is wrong with a .pt archive: by its checksums, and by what its tables claim; None when nothing is."""
    return _damage(path, _checked)


def claims_damage(path: Path) -> str | None:
    """The same without reading all of it, for a file whose digest is known."""
    return _damage(path, _claims)


def _damage(path: Path, look: Callable[[zipfile.ZipFile, int], str | None]) -> str | None:
    try:
        with open_file(path) as file:
            size = file.seek(0, io.SEEK_END)
            with zipfile.ZipFile(file) as archive:
                return look(archive, size)
    except Unreadable as error:
        return error.reason
    except DAMAGES as error:
        return first_line(error)


def _checked(archive: zipfile.ZipFile, size: int) -> str | None:
    found = _sizes(archive, size)
    if found is not None:
        return found
    damaged = archive.testzip()
    return f"checksum of {shown(damaged)} differs" if damaged is not None else _claims(archive, size)


def _sizes(archive: zipfile.ZipFile, size: int) -> str | None:
    """Whether the entries are what they say they are, and lie apart in the file."""
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        return "its entries are compressed, which no checkpoint's are"
    if any(entry.compress_size != entry.file_size for entry in entries) or sum(e.file_size for e in entries) > size:
        return "its entries claim more than the file holds"
    return None


def _claims(archive: zipfile.ZipFile, size: int) -> str | None:
    """Whether every tensor fits its storage, and every storage its entry; nothing that is named is called."""
    found = _sizes(archive, size)
    if found is not None:
        return found
    tables = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
    if len(tables) != 1:
        return "it holds no table of tensors"
    if tables[0].file_size > TABLE_LIMIT:
        return f"its table of tensors is larger than {TABLE_LIMIT / MEGABYTE:g} MB"
    content, prefix = archive.read(tables[0]), tables[0].filename.removesuffix("data.pkl")
    for name, argument in _operations(content):
        if name not in OPCODES:
            return f"its table of tensors uses {name}, which no checkpoint's does"
        if name == "GLOBAL" and not _is_allowed(str(argument)):
            return f"it names {shown(argument)}, which no checkpoint needs"
    sizes = {entry.filename.removeprefix(prefix + "data/"): entry.file_size for entry in archive.infolist()}
    _Claims(content, sizes).load()
    return None


def _operations(content: bytes) -> Iterator[tuple[str, object]]:
    return ((operation.name, argument) for operation, argument, _ in pickletools.genops(content))


def _is_allowed(name: str) -> bool:
    module, _, kind = name.partition(" ")
    return name in ALLOWED or (module == "torch" and kind in ITEM_BYTES)


class _Claims(pickle._Unpickler):  # the one in Python: the one in C makes room for whatever a file claims
    """Follows a table of tensors without making one. Raises ValueError for a claim that the archive does not keep."""

    def __init__(self, content: bytes, sizes: Mapping[str, int]) -> None:
        super().__init__(io.BytesIO(content))
        self.sizes = sizes

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch":
            return name  # of a storage: it stands in a tuple and is never called
        return {"OrderedDict": _ordered, "_rebuild_tensor_v2": _tensor, "_rebuild_parameter": _parameter}[name]

    def persistent_load(self, pid: Any) -> int:
        """How many numbers a storage has."""
        kind, name, key, _, numbers = pid
        if kind != "storage" or not isinstance(numbers, int) or isinstance(numbers, bool) or numbers < 0:
            raise ValueError("a storage is described in no way that PyTorch does")
        if numbers * ITEM_BYTES[name] != self.sizes.get(key):
            raise ValueError(f"storage {shown(key)} claims {shown(numbers)} numbers, which the archive does not hold")
        return numbers


def _ordered() -> OrderedDict[Any, Any]:
    """As PyTorch writes it: without arguments, filled afterwards."""
    return OrderedDict()


def _tensor(storage: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_others: object) -> str:
    """Raise ValueError for a tensor that reaches beyond its storage."""
    numbers = [offset, *size, *stride]
    if (
        not all(type(number) is int and number >= 0 for number in numbers)
        or not len(size) == len(stride) < MOST_DIMENSIONS
    ):
        raise ValueError("a tensor is described in no way that PyTorch does")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    claimed = prod(int(n) for n in size)
    if claimed > storage or (claimed and last >= storage):
        raise ValueError(f"a tensor of shape {shown(size)} claims more than its storage of {storage} numbers")
    return "tensor"


def _parameter(*_parts: object) -> str:
    return "parameter"
