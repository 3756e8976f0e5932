"""Which rows train, which validate and which test."""

from dataclasses import dataclass

from torch import Tensor

from ups_models.errors import DataError


@dataclass(frozen=True)
class Split:
    """Boolean masks (N,), disjoint and complete."""

    train: Tensor
    val: Tensor
    test: Tensor


def split_rows(row: Tensor, *, val: int, test: int) -> Split:
    """Rows [0, test) for the test, [test, test + val) for the validation, all others for the training. row: (N,).

    PDEBench's convention, and by row, so the twin of a trajectory under another nu falls on the same side.
    """
    if val < 0 or test < 0:
        raise DataError(f"a split of val={val} and test={test} rows is not possible. Use numbers >= 0")
    split = Split(train=row >= test + val, val=(row >= test) & (row < test + val), test=row < test)
    if not bool(split.train.any()):
        raise DataError(
            f"val={val} and test={test} rows leave none of {len(set(row.tolist()))} to train on. "
            f"Use fewer, or more data"
        )
    return split
