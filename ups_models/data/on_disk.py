"""Fields that are too large for the memory: in a temporary file, of which windows are read."""

import os
import tempfile
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ups_models.errors import StorageError
from ups_models.reading import remedy


class OnDisk:
    """Fields (N, T, C, *space) float32. The file has no name any more: it goes with the process, however that ends."""

    def __init__(
        self, parts: Sequence[tuple[int, int]], rows: Sequence[tuple[int, int]], inner: tuple[int, ...]
    ) -> None:
        self.parts, self.rows, self.inner = parts, rows, inner

    @classmethod
    def write(cls, pieces: Iterable[Tensor], folder: Path) -> "OnDisk":
        """Keep pieces of fields, which are read one after the other. Raises StorageError."""
        place = folder if os.access(folder, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
        try:
            with tempfile.TemporaryFile(dir=place) as file:
                handle, n = os.dup(file.fileno()), 0
                inner: tuple[int, ...] = ()
                for piece in pieces:
                    file.write(piece.contiguous().numpy().data)
                    n, inner = n + len(piece), tuple(piece.shape[1:])
        except OSError as error:
            raise StorageError(
                f"{place}: the fields do not fit into memory (data.in_memory_gb), and could not be kept here "
                f"({error.strerror}); {remedy(error) or 'choose another disk'}"
            ) from error
        return cls([(handle, n)], [(0, row) for row in range(n)], inner)

    @classmethod
    def of(cls, fields: "Tensor | OnDisk") -> "OnDisk":
        """The same, where it is one; else what is in memory, written. Raises StorageError."""
        return fields if isinstance(fields, OnDisk) else cls.write([fields], Path(tempfile.gettempdir()))

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, T, C, *space)."""
        return (len(self.rows), *self.inner)

    def __len__(self) -> int:
        return len(self.rows)

    def joined(self, other: "OnDisk") -> "OnDisk":
        """These rows, then the other's."""
        moved = [(part + len(self.parts), row) for part, row in other.rows]
        return OnDisk([*self.parts, *other.parts], [*self.rows, *moved], self.inner)

    def select(self, rows: Tensor) -> "OnDisk":
        """The rows of a boolean mask (N,) or of an index tensor; nothing is read."""
        chosen = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
        return OnDisk(self.parts, [self.rows[row] for row in chosen.tolist()], self.inner)

    def windows(self, which: Tensor, start: Tensor, length: int) -> Tensor:
        """`length` times of rows `which` (B,) from `start` (B,) on: (B, length, C, *space)."""
        found = torch.empty(len(which), length, *self.inner[1:])
        for window, row, first in zip(found, which.tolist(), start.tolist(), strict=True):
            self._read(window, row, first)
        return found

    def tensor(self) -> Tensor:
        """All of it, in memory."""
        n, length = len(self), self.inner[0]
        return self.windows(torch.arange(n), torch.zeros(n, dtype=torch.long), length)

    def _read(self, window: Tensor, row: int, first: int) -> None:
        part, place = self.rows[row]
        handle, _ = self.parts[part]
        frame = 4 * prod(self.inner[1:])
        into = memoryview(window.numpy().reshape(-1).view(np.uint8).data)
        at = (place * self.inner[0] + first) * frame
        while into:
            n = os.preadv(handle, [into], at)
            if n == 0:
                raise StorageError("the temporary file of the fields ended early; start again")
            into, at = into[n:], at + n
