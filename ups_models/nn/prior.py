"""The steady prior's network: a small U-Net for the velocity of a flow from noise to steady states."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ups_models.nn.blocks import Mlp


class ResBlock(nn.Module):
    """Two 3x3 convolutions with a time-conditioned scale and shift between them, residual."""

    def __init__(self, channels_in: int, channels: int, cond_width: int) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(8, channels_in)
        self.conv_in = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.affine = nn.Linear(cond_width, 2 * channels)
        self.norm_out = nn.GroupNorm(8, channels)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        self.skip = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """(B, C_in, H, W), (B, E) -> (B, C, H, W)."""
        h = self.conv_in(functional.silu(self.norm_in(x)))
        scale, shift = self.affine(cond)[:, :, None, None].chunk(2, 1)
        h = self.conv_out(functional.silu(self.norm_out(h) * (1 + scale) + shift))
        out: Tensor = self.skip(x) + h
        return out


class Prior(nn.Module):
    """Any velocity v(x_t, t; a, known) in units of `unit`, which is data, learned once and stored with the weights."""

    unit: Tensor


def at_start(a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a regression gives the network: no noise, no time, and the coefficient (B, H, W)."""
    return torch.zeros_like(a), a.new_zeros(len(a)), a, a.new_ones(len(a))


class OwnPrior(Prior):
    """A velocity of the user's."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.register_buffer("unit", torch.ones(()))
        self.net = net

    def forward(self, x: Tensor, t: Tensor, a: Tensor, known: Tensor) -> Tensor:
        """x (B, H, W), t (B,), a (B, H, W), known (B,) -> velocity (B, H, W)."""
        out: Tensor = self.net(x, t, a, known)
        return out.float()


class SteadyPrior(Prior):
    """v(x_t, t; a): flow-matching velocity towards steady states u given the coefficient field a.

    Fields are normalised inside: the coefficient enters as log10(a), the state in units of `unit` times beta, since
    the steady equation is linear in beta.
    """

    grid: Tensor
    frequencies: Tensor

    def __init__(self, *, size: int, channels: int, levels: int) -> None:
        super().__init__()
        cond_width = 4 * channels
        widths = [channels * min(2**level, 4) for level in range(levels)]
        self.condition = Mlp(16, cond_width, cond_width)
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("grid", unit_square(size), persistent=False)
        self.register_buffer("frequencies", torch.arange(1, 9) * torch.pi, persistent=False)
        self.lift = nn.Conv2d(5, widths[0], 3, padding=1)
        self.down = nn.ModuleList(ResBlock(widths[max(i - 1, 0)], width, cond_width) for i, width in enumerate(widths))
        self.middle = ResBlock(widths[-1], widths[-1], cond_width)
        self.up = nn.ModuleList(
            ResBlock(width + (widths[i + 1] if i + 1 < levels else widths[-1]), width, cond_width)
            for i, width in enumerate(widths)
        )
        self.project = nn.Conv2d(widths[0], 1, 3, padding=1)

    def ignore_noise(self) -> None:
        """Start without what x says; it is learned from there."""
        with torch.no_grad():
            self.lift.weight[:, 0].zero_()

    def forward(self, x: Tensor, t: Tensor, a: Tensor, known: Tensor) -> Tensor:
        """x (B, H, W), t (B,) in [0, 1], a (B, H, W), known (B,) 1 or 0 (0 hides a) -> velocity (B, H, W)."""
        phase = t[:, None] * self.frequencies
        cond = self.condition(torch.cat([phase.sin(), phase.cos()], -1))
        shown = known[:, None, None]
        grid = self.grid.expand(len(x), -1, -1, -1)
        h = self.lift(torch.cat([torch.stack([x, (a.log10() + 0.5) * shown, shown.expand_as(a)], 1), grid], 1))
        skips = []
        for level, block in enumerate(self.down):
            h = block(functional.avg_pool2d(h, 2) if level else h, cond)
            skips.append(h)
        h = self.middle(h, cond)
        for level in reversed(range(len(self.up))):
            h = self.up[level](torch.cat([h, skips[level]], 1), cond)
            if level:
                h = functional.interpolate(h, scale_factor=2.0, mode="nearest")
        out: Tensor = self.project(functional.silu(h))[:, 0]
        return out.float()


def unit_square(size: int) -> Tensor:
    """Distances to the walls, sin(pi x) and sin(pi y) at cell centres: (2, H, W)."""
    x = torch.sin(torch.pi * (torch.arange(size) + 0.5) / size)
    return torch.stack([x[:, None].expand(size, size), x[None, :].expand(size, size)])
