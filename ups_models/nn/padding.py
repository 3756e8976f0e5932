"""More points at both ends of each axis, for convolutions that keep the size of a field."""

import torch
from torch import Tensor, nn


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


class PaddedConv(nn.Module):
    """A convolution over three points of each axis, `dilation` apart; round a periodic axis, at an edge it repeats."""

    def __init__(self, width_in: int, width_out: int, periodic: tuple[bool, ...], dilation: int = 1) -> None:
        super().__init__()
        self.dilation, self.periodic = dilation, periodic
        self.conv = (nn.Conv1d, nn.Conv2d)[len(periodic) - 1](width_in, width_out, 3, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H_in, *space) -> (B, H_out, *space)."""
        found: Tensor = self.conv(padded(x, self.dilation, self.periodic))
        return found
