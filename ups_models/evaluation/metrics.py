"""Errors of fields and calibration of ensembles, each from its published formula."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Dims = int | tuple[int, ...]
LEVELS = tuple(percent / 100 for percent in range(5, 100, 5))
"""Central levels over which the calibration error is averaged."""
AT_ONCE = 2**22
"""Numbers of a field whose errors are held in memory together."""


def nrmse(prediction: Tensor, target: Tensor, dim: Dims = -1) -> Tensor:
    """sqrt(mean_x e^2) / sqrt(mean_x t^2): (N, T, X) -> (N, T). PDEBench (Takamoto et al. 2022), app. B.

    No epsilon: a target that is zero everywhere gives inf, or nan where the prediction is zero too.
    """
    return in_rows(lambda p, t: _rms(p - t, dim) / _rms(t, dim), prediction, target)


def vrmse(prediction: Tensor, target: Tensor, dim: Dims = -1) -> Tensor:
    """sqrt(mean_x e^2) / std_x(t): (N, T, X) -> (N, T). The Well (Ohana et al. 2024), without its epsilon.

    The spatial mean of the target, taken as a prediction, scores exactly 1; a constant target gives inf or nan.
    """
    return in_rows(lambda p, t: _rms(p - t, dim) / _rms(t - t.mean(dim, keepdim=True), dim), prediction, target)


def mae(prediction: Tensor, target: Tensor, dim: Dims = -1) -> Tensor:
    """mean_x |e|: (N, T, X) -> (N, T). The CRPS of a forecast with one member."""
    return in_rows(lambda p, t: (p - t).abs().mean(dim), prediction, target)


@dataclass(frozen=True)
class PDEBenchMetrics:
    """PDEBench's eight figures, each averaged over times last."""

    rmse: float
    nrmse: float
    crmse: float
    max_error: float
    brmse: float
    frmse_low: float
    frmse_mid: float
    frmse_high: float


def pdebench(prediction: Tensor, target: Tensor, grid: tuple[int, ...] = (), *, length: float = 1.0) -> PDEBenchMetrics:
    """(N, T, C, X) on a domain of `length` -> the metrics of PDEBench (Takamoto et al. 2022), app. B.

    `grid` are the axes that X flattens, if there are several. All N trajectories count as one batch: PDEBench averages
    over loader batches, so that its cRMSE, maximum and fRMSE depend on the batch size. fRMSE_k = sqrt(mean_n |e_k|^2) /
    X * length with the error's Fourier modes e_k, averaged over the wave numbers k < 4, 4 <= k < 12 and k >= 12; nan
    where the grid has no such k. In two dimensions k counts the modes of k <= |k| < k + 1, and their squares are added.
    brmse compares the ends of the domain: without meaning on a periodic one.
    """
    points, grid = target.shape[-1], grid or target.shape[-1:]
    ends = _ends(grid)

    def rows(function: Callable[[Tensor], Tensor]) -> Tensor:
        """A function of the error."""
        return in_rows(lambda p, t: function(p - t), prediction, target)

    spectrum = rows(lambda error: energy(error, grid)).mean(0).sqrt() * (length / points)
    return PDEBenchMetrics(
        rmse=rows(lambda error: _rms(error, -1)).mean().item(),
        nrmse=nrmse(prediction, target).mean().item(),
        crmse=(rows(lambda error: error.sum(-1)).square().mean(0).sqrt() / points).mean().item(),
        max_error=rows(lambda error: error.abs().amax(-1)).amax(0).mean().item(),
        brmse=rows(lambda error: _rms(error[..., ends], -1)).mean().item(),
        frmse_low=spectrum[..., :4].mean().item(),
        frmse_mid=spectrum[..., 4:12].mean().item(),
        frmse_high=spectrum[..., 12:].mean().item(),
    )


def energy(u: Tensor, grid: tuple[int, ...]) -> Tensor:
    """|u_k|^2 by wave number: (..., X) -> (..., K), where X flattens `grid`; in two dimensions by shells of |k|."""
    if len(grid) == 1:
        found: Tensor = torch.fft.rfft(u, dim=-1).abs().square()
        return found
    axes = tuple(range(-len(grid), 0))
    squares = torch.fft.fftn(u.unflatten(-1, grid), dim=axes).abs().square().flatten(-len(grid))
    waves = torch.meshgrid(*(torch.fft.fftfreq(n, 1 / n, device=u.device) for n in grid), indexing="ij")
    shell = torch.stack(waves).square().sum(0).sqrt().floor().long().flatten()
    shells = min(grid) // 2 + 1
    inside = shell < shells
    shelled = u.new_zeros(*squares.shape[:-1], shells)
    shelled.index_add_(-1, shell[inside], squares[..., inside])
    return shelled


def _ends(grid: tuple[int, ...]) -> list[int]:
    """Where in the flattened grid the boundary lies."""
    index = torch.arange(math.prod(grid)).view(grid)
    inner = torch.zeros(grid, dtype=torch.bool)
    inner[tuple(slice(1, -1) for _ in grid)] = True
    return index[~inner].tolist()


def correlation_time(prediction: Tensor, target: Tensor, t: Tensor, threshold: float) -> float:
    """First time at which the Pearson correlation over x, averaged over trajectories, is under `threshold`.

    (N, T, C, X), t (T,) -> one time; pdearena (Gupta & Brandstetter 2022). t[-1] if the correlation never falls under
    the threshold: such a value is a lower bound. A constant field correlates with nothing: it counts as 0.
    """
    pearson = in_rows(_pearson, prediction, target)
    correlation = pearson.flatten(2).mean(-1).mean(0) if pearson.ndim > 2 else pearson.mean(0)
    below = (correlation < threshold).nonzero()
    return float(t[below[0, 0]] if len(below) else t[-1])


def bootstrap_ci(values: Tensor, *, seed: int, draws: int = 2000, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean of `values` (N,), resampling trajectories. Efron & Tibshirani 1993, ch. 13.

    It covers the choice of test trajectories, not the seed of the training.
    """
    rng = torch.Generator().manual_seed(seed)
    values = values.detach().cpu().double()
    n = len(values)
    some = torch.arange(draws).split(max(1, AT_ONCE // n))
    means = torch.cat([values[torch.randint(n, (len(part), n), generator=rng)].mean(1) for part in some])
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=means.dtype)
    low, high = means.quantile(ends).tolist()
    return low, high


def fair_crps(samples: Tensor, target: Tensor) -> Tensor:
    """Samples (M, N, ...), target (N, ...) -> CRPS (N, ...), without bias in M. Ferro 2014, eq. 4; M >= 2.

    mean_i |x_i - y| - sum_ij |x_i - x_j| / (2 M (M - 1)). The double sum is 2 sum_i (2i - M - 1) x_(i) over the sorted
    members, i = 1..M. A single sample's score may be negative.
    """
    members = len(samples)
    if members < 2:
        raise ValueError(f"the fair CRPS needs 2 members or more, got {members}; for one forecast use mae")
    weights = torch.arange(1 - members, members, 2, dtype=samples.dtype, device=samples.device)
    ordered = samples.sort(0).values
    evenly_spaced: Tensor = torch.tensordot(weights, ordered, dims=([0], [0])) / (members * (members - 1))
    return (samples - target).abs().mean(0) - evenly_spaced


def spread_skill(samples: Tensor, target: Tensor, scale: Tensor | None = None) -> float:
    """sqrt(mean (M + 1) / M var) / RMSE of the ensemble mean, ideal 1. Fortin et al. 2014, eq. 15.

    Samples (M, N, ...), target (N, ...); `scale` (N,) or any leading axes of the target divides both first, so that
    samples of unlike size count alike.
    """
    if scale is not None:
        scale = scale.reshape(scale.shape + (1,) * (target.ndim - scale.ndim))
        samples, target = samples / scale, target / scale
    members = len(samples)
    variance = samples.var(0, correction=1).mean() * (members + 1) / members
    return float((variance / (samples.mean(0) - target).square().mean()).sqrt())


def ranks(samples: Tensor, target: Tensor, rng: torch.Generator) -> Tensor:
    """How many members lie under the target, 0..M: (M, N, ...), (N, ...) -> (N, ...) int64. Hamill 2001.

    Among members equal to the target the rank is drawn at random, which keeps the histogram of ties flat.
    """
    below, equal = (samples < target).sum(0), (samples == target).sum(0)
    draw = torch.rand(target.shape, generator=rng, device=rng.device, dtype=torch.float64).to(target.device)
    return below + (draw * (equal + 1)).long()


def rank_frequencies(rank: Tensor, members: int) -> Tensor:
    """Ranks 0..M of any shape -> their frequencies (M + 1,), which sum to 1. Ideal: 1 / (M + 1) each."""
    return torch.bincount(rank.flatten(), minlength=members + 1).double() / rank.numel()


def coverage(rank: Tensor, members: int, level: float) -> float:
    """Share of targets inside the central interval of `level`, from ranks 0..M of any shape.

    Rank r stands for the r-th of M + 1 equal slices of probability and counts by the part of its slice that lies in
    [(1 - level) / 2, (1 + level) / 2]. Uniform ranks give exactly `level`, where the empirical quantiles of a small
    ensemble cover too little (randomised PIT, Czado et al. 2009).
    """
    slices = members + 1
    edges = (torch.arange(slices + 1, dtype=torch.float64) / slices).clamp((1 - level) / 2, (1 + level) / 2)
    inside = edges.diff() * slices
    return float((rank_frequencies(rank, members).cpu() * inside).sum())


def ece(rank: Tensor, members: int, levels: Sequence[float] = LEVELS) -> float:
    """Calibration error: mean over central levels q of |coverage(q) - q|. Kuleshov et al. 2018, sec. 3.

    Ranks 0..M of any shape. Over- and under-dispersion both raise it.
    """
    return sum(abs(coverage(rank, members, level) - level) for level in levels) / len(levels)


def in_rows(function: Callable[..., Tensor], *fields: Tensor) -> Tensor:
    """What a function finds in each row (N, ...) of the fields, a few rows at a time: what it needs stays small."""
    per = max(1, AT_ONCE // max(1, fields[0][0].numel()))
    return torch.cat([function(*rows) for rows in zip(*(one.split(per) for one in fields), strict=True)])


def _pearson(prediction: Tensor, target: Tensor) -> Tensor:
    """Correlation over x, (..., X) -> (...); 0 where one of both is constant."""
    p, p_std = _centred(prediction)
    q, q_std = _centred(target)
    defined = (p_std > 0) & (q_std > 0)
    return torch.where(defined, (p * q).mean(-1) / (p_std * q_std), torch.zeros_like(p_std))


def _rms(x: Tensor, dim: Dims) -> Tensor:
    """Root of the mean square over `dim`."""
    return x.square().mean(dim).sqrt()


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """(..., X) -> x less its mean (..., X), and its standard deviation (...), 0 where only rounding varies."""
    centred = x - x.mean(-1, keepdim=True)
    std = _rms(centred, -1)
    return centred, torch.where(std > 1e-6 * _rms(x, -1), std, torch.zeros_like(std))
