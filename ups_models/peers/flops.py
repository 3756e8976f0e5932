"""What PyTorch's counter leaves out: FFTs."""

import math
from collections.abc import Sequence
from typing import Any

from torch import nn


def fft_flops(net: nn.Module, points: Sequence[int]) -> float:
    """Of the spectral convolutions of a network: 5/2 N log2 N for a real FFT of N points, there and back."""
    size = math.prod(points)
    convolutions: list[Any] = [module for module in net.modules() if type(module).__name__ == "SpectralConv"]
    channels = sum(int(one.in_channels) + int(one.out_channels) for one in convolutions)
    return float(channels * 2.5 * size * math.log2(size))
