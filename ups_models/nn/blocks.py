"""Building blocks that more than one network is made of."""

import math

import torch
from torch import Tensor, nn


class SpectralMix(nn.Module):
    """Mix tokens by learned complex matrices, one for each of the lowest Fourier modes. Li et al. 2021, eq. 5.

    The transforms are small dense matrices, not FFTs: at tens of tokens that is faster, and it stays in float32
    under autocast, where half-precision FFTs are not defined.
    """

    dft: Tensor
    idft: Tensor

    def __init__(self, width: int, tokens: int, modes: int) -> None:
        super().__init__()
        forward, inverse = real_dft(tokens, modes)
        self.register_buffer("dft", forward, persistent=False)
        self.register_buffer("idft", inverse, persistent=False)
        self.weight = nn.Parameter(torch.randn(2, modes, width, width) / width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, H) -> (B, S, H)."""
        batch, _, width = x.shape
        with torch.autocast(x.device.type, enabled=False):
            coefficients = (self.dft @ x.float()).view(batch, -1, 2 * width).transpose(0, 1)
            real, imaginary = self.weight
            matrix = torch.cat([torch.cat([real, imaginary], -1), torch.cat([-imaginary, real], -1)], -2)
            mixed = torch.bmm(coefficients, matrix).transpose(0, 1).reshape(batch, -1, width)
            return self.idft @ mixed


def real_dft(tokens: int, modes: int) -> tuple[Tensor, Tensor]:
    """Orthonormal real DFT to the lowest `modes` modes, and back: (2 modes, tokens) and (tokens, 2 modes).

    Rows come in pairs (real, imaginary) of one mode, so that a reshape puts both beside each other.
    """
    k = torch.arange(modes, dtype=torch.float64)[:, None]
    phase = 2 * math.pi * k * torch.arange(tokens, dtype=torch.float64) / tokens
    forward = torch.stack([phase.cos(), -phase.sin()], 1).reshape(2 * modes, tokens) / math.sqrt(tokens)
    weight = torch.full((modes,), 2.0, dtype=torch.float64)
    weight[0] = 1.0
    if modes == tokens // 2 + 1 and tokens % 2 == 0:
        weight[-1] = 1.0
    inverse = (forward * weight.repeat_interleave(2)[:, None]).T
    return forward.float(), inverse.float().contiguous()


class CircularConv(nn.Module):
    """Convolution over three neighbouring tokens on a periodic domain, channels last."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * width_in, width_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, H_in) -> (B, S, H_out)."""
        out: Tensor = self.linear(torch.cat([x.roll(1, 1), x, x.roll(-1, 1)], -1))
        return out


class Mlp(nn.Sequential):
    """Two linear layers with a GELU between."""

    def __init__(self, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__(nn.Linear(width_in, hidden), nn.GELU(), nn.Linear(hidden, width_out))


class Film(nn.Module):
    """Scale and shift by a condition, starting as the identity. Perez et al. 2018, eq. 2.

    There is no normalisation before it: a layer norm hides the amplitude that a regression must keep, and cost the
    operator a quarter of its accuracy at the same number of steps.
    """

    def __init__(self, width: int, cond_width: int) -> None:
        super().__init__()
        self.affine = nn.Linear(cond_width, 2 * width)
        nn.init.zeros_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """(B, S, H), (B, C) -> (B, S, H)."""
        scale, shift = self.affine(cond)[:, None].chunk(2, -1)
        out: Tensor = torch.addcmul(shift, x, 1 + scale)
        return out


class MixingBlock(nn.Module):
    """Global spectral mixing beside local convolution, then a channel MLP, both residual and conditioned."""

    def __init__(self, width: int, tokens: int, modes: int, cond_width: int) -> None:
        super().__init__()
        self.mix_film = Film(width, cond_width)
        self.spectral = SpectralMix(width, tokens, modes)
        self.local = CircularConv(width, width)
        self.mlp_film = Film(width, cond_width)
        self.mlp = Mlp(width, 2 * width, width)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """(B, S, H), (B, C) -> (B, S, H)."""
        y = self.mix_film(x, cond)
        x = x + nn.functional.gelu(self.spectral(y) + self.local(y))
        out: Tensor = x + self.mlp(self.mlp_film(x, cond))
        return out


class LogFourierFeatures(nn.Module):
    """Smooth features of positive numbers given by their logarithm: sines and cosines at octaves."""

    frequencies: Tensor

    def __init__(self, octaves: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2.0 ** torch.arange(-3, octaves - 3), persistent=False)

    def forward(self, log_value: Tensor) -> Tensor:
        """(B, C) -> (B, 2 octaves C)."""
        phase = (log_value[..., None] * self.frequencies).flatten(1)
        return torch.cat([phase.sin(), phase.cos()], -1)

    def width(self, channels: int) -> int:
        """Number of features that `channels` numbers become."""
        return int(2 * len(self.frequencies) * channels)
