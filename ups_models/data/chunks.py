"""Large datasets in pieces that fit into memory."""

from collections.abc import Iterator

CHUNK_BYTES = 64 * 2**20  # read and solve this much at a time


def chunks(n: int, bytes_per_row: int) -> Iterator[range]:
    """Ranges of row numbers of at most CHUNK_BYTES each, from 0 to n."""
    size = max(1, CHUNK_BYTES // max(1, bytes_per_row))
    for start in range(0, n, size):
        yield range(start, min(start + size, n))
