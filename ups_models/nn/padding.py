"""More points at both ends of each axis, for convolutions that keep the size of a field."""

import torch
from torch import Tensor


def padded(x: Tensor, by: int, periodic: tuple[bool, ...]) -> Tensor:
    """(B, H, *space) with `by` more points at both ends of each axis."""
    for axis, is_periodic in enumerate(periodic, start=2):
        size = x.shape[axis]
        if is_periodic:
            before, after = x.narrow(axis, size - by, by), x.narrow(axis, 0, by)
        else:
            shape = (*x.shape[:axis], by, *x.shape[axis + 1 :])
            before, after = (x.narrow(axis, edge, 1).expand(shape) for edge in (0, size - 1))
        x = torch.cat([before, x, after], axis)
    return x
