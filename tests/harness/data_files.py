"""Small data files laid out as others write them: PDEBench's, The Well's, and plain arrays."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Array = np.ndarray[Any, Any]


def random_fields(n: int, nt: int, channels: int, grid: Sequence[int], seed: int = 0) -> Array:
    """(N, T, C, *space) float32."""
    return np.random.default_rng(seed).standard_normal((n, nt, channels, *grid)).astype(np.float32)


def centres(low: float, high: float, n: int) -> Array:
    """Middles of n cells, float32."""
    return (low + (high - low) * (np.arange(n) + 0.5) / n).astype(np.float32)


def write_groups(
    path: Path, u: Array | None = None, config: str = "sim: {Du: 0.001, Dv: 0.005, k: 0.005}", reach: float = 1.0
) -> Array:
    """PDEBench's 2D diffusion-reaction: a group for each trajectory, channels last, settings as YAML."""
    u = random_fields(4, 6, 2, (16, 16)) if u is None else u
    with h5py.File(path, "w") as file:
        for number, row in enumerate(u):
            group = file.create_group(f"{number:04d}")
            group.create_dataset("data", data=np.moveaxis(row, 1, -1), compression="lzf")
            for name, size in zip("xy", row.shape[2:], strict=True):
                group[f"grid/{name}"] = centres(-reach, reach, size)
            group["grid/t"] = np.linspace(0.0, 5.0, len(row), dtype=np.float32)
            group.attrs["config"] = config
    return u


def write_flow(path: Path, u: Array | None = None) -> Array:
    """PDEBench's compressible flow: a dataset for each field, one time too many."""
    u = random_fields(4, 6, 4, (16, 16)) if u is None else u
    with h5py.File(path, "w") as file:
        for channel, name in enumerate(("density", "pressure", "Vx", "Vy")):
            file[name] = u[:, :, channel]
        for name, size in zip("xy", u.shape[3:], strict=True):
            file[f"{name}-coordinate"] = centres(0.0, 1.0, size)
        file["t-coordinate"] = 0.05 * np.arange(u.shape[1] + 1, dtype=np.float32)
        file.attrs.update({"eta": 0.01, "zeta": 0.01, "M": 0.1})
    return u


def write_the_well(path: Path, u: Array | None = None, *, boundary: str = "PERIODIC") -> Array:
    """The Well's Gray-Scott: a scalar field for each substance; and a velocity that no problem of ours asks for."""
    u = random_fields(4, 6, 2, (16, 16)) if u is None else u
    with h5py.File(path, "w") as file:
        file.attrs.update({"dataset_name": "gray_scott", "grid_type": "cartesian", "n_spatial_dims": 2})
        file.attrs.update({"n_trajectories": len(u), "simulation_parameters": ["F", "k"], "F": 0.04, "k": 0.06})
        dimensions = file.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = ["x", "y"]
        dimensions["time"] = 10.0 * np.arange(u.shape[1], dtype=np.float32)
        for name, size in zip("xy", u.shape[3:], strict=True):
            dimensions[name] = (-1.0 + 2.0 * np.arange(size) / size).astype(np.float32)
        for name in ("x", "y"):
            one = file.create_group(f"boundary_conditions/{name}_{boundary.lower()}")
            one.attrs.update({"bc_type": boundary, "associated_dims": [name], "associated_fields": []})
        scalars = file.create_group("t0_fields")
        scalars.attrs["field_names"] = ["A", "B"]
        for channel, name in enumerate(("A", "B")):
            scalars[name] = u[:, :, channel]
        vectors = file.create_group("t1_fields")
        vectors.attrs["field_names"] = ["velocity"]
        vectors["velocity"] = np.moveaxis(u, 2, -1)
        for dataset in (*scalars.values(), *vectors.values()):
            dataset.attrs.update({"dim_varying": [True, True], "sample_varying": True, "time_varying": True})
    return u


def write_npz(path: Path, u: Array | None = None, **said: Any) -> Array:
    """Plain arrays of the Kuramoto-Sivashinsky equation, as numpy.savez writes them."""
    u = random_fields(4, 6, 1, (32,)) if u is None else u
    named = {"problem": "ks1d", "nu": 1.0, "t": np.arange(u.shape[1], dtype=float), "x": 2.0 * np.arange(u.shape[-1])}
    arrays: dict[str, Any] = {name: value for name, value in (named | said).items() if value is not None}
    np.savez(path, u=u, **arrays)
    return u


WRITERS: dict[str, Callable[[Path], Array]] = {
    "2D_diff-react_NA_NA.h5": write_groups,
    "2D_CFD_Rand.hdf5": write_flow,
    "gray_scott.hdf5": write_the_well,
}
"""One HDF5 file of each layout that is not generated here."""
