"""Building blocks that more than one network is made of."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ups_models.problems.spectral import dct


@dataclass(frozen=True)
class TokenGrid:
    """Where latent tokens lie: how many along each axis of space, and which of the axes are periodic.

    Tokens are stored one after the other, (B, S, D) with S their number; only what mixes neighbours knows the grid.
    """

    shape: tuple[int, ...]
    periodic: tuple[bool, ...]

    @property
    def size(self) -> int:
        """How many they are."""
        return math.prod(self.shape)

    @property
    def is_ring(self) -> bool:
        """Whether there is one axis, a periodic one."""
        return self.periodic == (True,)


def spectral_mix(width: int, grid: TokenGrid, modes: int) -> nn.Module:
    """The global mixing of tokens that suits their grid, (B, S, H) -> (B, S, H)."""
    return SpectralMix(width, grid.size, modes) if grid.is_ring else GridSpectralMix(width, grid, modes)


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


class GridSpectralMix(nn.Module):
    """The same on any grid: Fourier modes along its periodic axes, cosines (DCT-II) along the others.

    A cosine series keeps the normal derivative at zero on the boundary, where a Fourier series would join both ends.
    """

    def __init__(self, width: int, grid: TokenGrid, modes: int) -> None:
        super().__init__()
        self.grid = grid
        last_periodic = max((axis for axis, one in enumerate(grid.periodic) if one), default=None)
        for axis, (size, is_periodic) in enumerate(zip(grid.shape, grid.periodic, strict=True)):
            kept = min(modes, size // 2 + 1 if is_periodic else size)
            forward, inverse = (
                complex_dft(size, kept, real_input=axis == last_periodic) if is_periodic else cosine_pair(size, kept)
            )
            dtype = torch.float32 if last_periodic is None else torch.complex64
            self.register_buffer(f"forward_{axis}", forward.to(dtype), persistent=False)
            self.register_buffer(f"inverse_{axis}", inverse.to(dtype), persistent=False)
        self.is_complex = last_periodic is not None
        self.kept = [len(self.get_buffer(f"forward_{axis}")) for axis in range(len(grid.shape))]
        parts = 2 if self.is_complex else 1
        self.weight = nn.Parameter(torch.randn(parts, math.prod(self.kept), width, width) / width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, H) -> (B, S, H)."""
        batch, _, width = x.shape
        with torch.autocast(x.device.type, enabled=False):
            modes = self._along_all(x.float().unflatten(1, self.grid.shape), "forward").flatten(1, -2).transpose(0, 1)
            weight = torch.complex(*self.weight) if self.is_complex else self.weight[0]
            mixed = torch.bmm(modes, weight).transpose(0, 1).unflatten(1, self.kept)
            found = self._along_all(mixed, "inverse")
            return (found.real if self.is_complex else found).reshape(batch, -1, width)

    def _along_all(self, x: Tensor, direction: str) -> Tensor:
        """Transform every axis of (B, *axes, H)."""
        x = x.to(torch.complex64) if self.is_complex and not x.is_complex() else x
        for axis in range(len(self.grid.shape)):
            matrix = self.get_buffer(f"{direction}_{axis}")
            x = (x.transpose(axis + 1, -1) @ matrix.T).transpose(axis + 1, -1)
        return x


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


def complex_dft(size: int, modes: int, *, real_input: bool) -> tuple[Tensor, Tensor]:
    """Orthonormal DFT to the modes |k| < `modes`, and back: (K, size) and (size, K) complex128.

    Of real input k >= 0 is enough: the real part of the way back counts them twice.
    """
    high = min(modes - 1, size // 2)
    low = 0 if real_input else -min(high, (size - 1) // 2)
    k = torch.arange(low, high + 1, dtype=torch.float64)[:, None]
    forward = torch.exp(-2j * math.pi * k * torch.arange(size, dtype=torch.float64) / size) / math.sqrt(size)
    counted = torch.where((k == 0) | (2 * k == size), 1.0, 2.0) if real_input else torch.ones_like(k)
    return forward, (forward.conj() * counted).T


def cosine_pair(size: int, modes: int) -> tuple[Tensor, Tensor]:
    """The orthonormal DCT-II to the lowest `modes` cosines, and back: (modes, size) and (size, modes) float64."""
    forward = dct(size)[:modes]
    return forward, forward.T


class NeighbourConv(nn.Module):
    """Convolution over a token and its neighbours along every axis, channels last.

    Beyond a boundary that is not periodic the token at it is repeated.
    """

    def __init__(self, width_in: int, width_out: int, grid: TokenGrid) -> None:
        super().__init__()
        self.grid = grid
        self.linear = nn.Linear(3 ** len(grid.shape) * width_in, width_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, H_in) -> (B, S, H_out)."""
        is_flat = len(self.grid.shape) == 1  # no view then: gradients would be added up in another order
        around = [x if is_flat else x.unflatten(1, self.grid.shape)]
        for axis, is_periodic in enumerate(self.grid.periodic, start=1):
            around = [_shifted(one, axis, offset, is_periodic) for one in around for offset in (-1, 0, 1)]
        found = torch.cat(around, -1)
        out: Tensor = self.linear(found if is_flat else found.flatten(1, -2))
        return out


def _shifted(x: Tensor, axis: int, offset: int, is_periodic: bool) -> Tensor:
    """The neighbour at this offset of every token along one axis of (B, *tokens, H)."""
    if offset == 0:
        return x
    if is_periodic:
        return x.roll(-offset, axis)
    size = x.shape[axis]
    edge = x.narrow(axis, 0 if offset < 0 else size - 1, 1)
    inner = x.narrow(axis, max(0, offset), size - 1)
    return torch.cat([edge, inner] if offset < 0 else [inner, edge], axis)


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

    def __init__(self, width: int, grid: TokenGrid, modes: int, cond_width: int) -> None:
        super().__init__()
        self.mix_film = Film(width, cond_width)
        self.spectral = spectral_mix(width, grid, modes)
        self.local = NeighbourConv(width, width, grid)
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
