"""The distribution of the operator's residual: a learned scale, and a denoiser of the whitened residual."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ups_models.config.constants import DENOISER_COND_WIDTH, DENOISER_OCTAVES, HIGHEST_LOG_SCALE, LOWEST_LOG_SCALE
from ups_models.nn.blocks import LogFourierFeatures, MixingBlock, Mlp, NeighbourConv, TokenGrid
from ups_models.nn.own import Operator
from ups_models.nn.residual import LatentResidual, ResidualSpace

SMALL_CHANGE = 0.01
"""About the change of a latent state in a step, where its unit has to be guessed."""


class ResidualScale(nn.Module):
    """s(z, z_hat): the residual's standard deviation, one value for each token and group of channels.

    ln s moves between its lowest and highest value along a sigmoid: residuals span five decades, and a hard bound would
    leave an overshoot without a gradient to come back by.
    """

    def __init__(self, grid: TokenGrid, dim: int, width: int, groups: int, *, residual: int) -> None:
        super().__init__()
        self.repeat = residual // groups
        self.net = nn.Sequential(
            NeighbourConv(2 * dim, width, grid),
            nn.GELU(),
            NeighbourConv(width, width, grid),
            nn.GELU(),
            nn.Linear(width, groups),
        )

    def forward(self, z: Tensor, z_hat: Tensor) -> Tensor:
        """(B, S, D), (B, S, D) -> (B, S, R), positive."""
        level: Tensor = self.net(torch.cat([z, torch.asinh((z_hat - z) / SMALL_CHANGE)], -1)).float()
        log_scale = LOWEST_LOG_SCALE + (HIGHEST_LOG_SCALE - LOWEST_LOG_SCALE) * torch.sigmoid(level)
        return log_scale.exp().repeat_interleave(self.repeat, -1)


class ResidualDenoiser(nn.Module):
    """F(c_in x; sigma, z, z_hat), the raw network inside an EDM or a consistency preconditioning."""

    def __init__(self, *, grid: TokenGrid, seen: int, residual: int, width: int, blocks: int, modes: int) -> None:
        super().__init__()
        self.features = LogFourierFeatures(DENOISER_OCTAVES)
        self.condition = Mlp(self.features.width(1), DENOISER_COND_WIDTH, DENOISER_COND_WIDTH)
        self.lift = NeighbourConv(residual + seen, width, grid)
        self.blocks = nn.ModuleList(MixingBlock(width, grid, modes, DENOISER_COND_WIDTH) for _ in range(blocks))
        self.project = nn.Linear(width, residual)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        """x (B, S, R) already scaled, sigma (B,), context (B, S, K) -> (B, S, R)."""
        cond = self.condition(self.features(sigma.log()[:, None]))
        h = self.lift(torch.cat([x, context], -1))
        for block in self.blocks:
            h = block(h, cond)
        out: Tensor = self.project(h)
        return out.float()


def context_width(dim: int, space: ResidualSpace) -> int:
    """Numbers of a token of a denoiser's context, K, for latent tokens of `dim` numbers."""
    return 2 * dim + space.dim + space.unseen


class ResidualDiffusion(nn.Module):
    """p(r | z, z_hat) of the residual r in its space, whitened: x_0 = r / s(z, z_hat) has unit variance.

    The same module serves the teacher (`denoise`, Karras et al. 2022) and its consistency student
    (`consistency`, Song et al. 2023): they differ in the preconditioning, and lie in separate files. A student may have
    an `operator` that was tuned together with it; it then corrects the forecasts of that one.
    """

    def __init__(
        self,
        *,
        grid: TokenGrid,
        dim: int,
        width: int,
        blocks: int,
        modes: int,
        scale_groups: int,
        sigma_min: float,
        denoiser: nn.Module | None = None,
        space: ResidualSpace | None = None,
        operator: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.sigma_min = sigma_min
        self.operator = operator
        self.space = space or LatentResidual(dim)
        residual = self.space.dim
        self.scale = ResidualScale(grid, dim, width, scale_groups, residual=residual)
        self.denoiser = denoiser or ResidualDenoiser(
            grid=grid, seen=context_width(dim, self.space), residual=residual, width=width, blocks=blocks, modes=modes
        )

    def context(self, z: Tensor, z_hat: Tensor, lost: Tensor) -> Tensor:
        """What the denoiser sees: z, the predicted change, log s, and in units of s what z does not hold. (B, S, K).

        A latent residual has the unit of the change, which is then given in units of s.
        """
        scale = self.scale(z, z_hat).detach()
        change = (z_hat - z) / (scale if isinstance(self.space, LatentResidual) else SMALL_CHANGE)
        return torch.cat(
            [z, change.sign() * change.abs().log1p(), scale.log() / 4, lost / scale[..., : self.space.unseen]], -1
        )

    def corrected(
        self, operator: Operator, u: Tensor, z: Tensor, z_hat: Tensor, mean: Tensor, draw: Callable[..., Tensor]
    ) -> Tensor:
        """The forecast with a residual: `draw(scale, context)` gives x_0 (B, S, R). Fields (B, C, *space)."""
        context = self.context(z, z_hat, self.space.lost(operator, u, z, mean))
        scale = self.scale(z, z_hat)
        return self.space.corrected(operator, z_hat, scale * draw(scale, context), mean)

    def denoise(self, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        """D(x; sigma), the expected x_0. Karras et al. 2022, eq. 7 and table 1 with sigma_data = 1."""
        s = sigma[:, None, None]
        norm = (1 + s**2).sqrt()
        return x / (1 + s**2) + s / norm * self._network(x / norm, sigma, context)

    def consistency(self, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        """f(x, sigma), with f(x, sigma_min) = x exactly. Song et al. 2023, eq. 5 and appendix C, sigma_data = 1."""
        s = sigma[:, None, None]
        norm = (1 + s**2).sqrt()
        shifted = s - self.sigma_min
        return x / (1 + shifted**2) + shifted / norm * self._network(x / norm, sigma, context)

    def _network(self, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        out: Tensor = self.denoiser(x, sigma, context)
        return out.float()
