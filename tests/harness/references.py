"""Reference solutions of another library, exponax (Koehler et al. 2024), for the tests of our solvers.

    pip install 'ups-pipeline[references]' && python -m harness.references

Writes tests/data/exponax.npz: smooth initial fields and what exponax makes of them, in float64, with its fourth-order
integrator at steps far below ours. It needs JAX, so a test reads the file instead of making it.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import exponax as ex
import jax
import numpy as np
import numpy.typing as npt

DATA = Path(__file__).resolve().parents[1] / "data" / "exponax.npz"
Array = npt.NDArray[Any]


def main() -> None:
    """Solve every case, and write the file."""
    jax.config.update("jax_enable_x64", True)
    found: dict[str, Array] = {}
    for name, (u0, make, t, steps) in cases().items():
        stepper = make(t / steps)
        u = np.asarray(ex.repeat(stepper, steps)(jax.numpy.asarray(u0)))
        found |= {f"{name}/u0": u0, f"{name}/u": u, f"{name}/t": np.array(t)}
        print(f"{name}: |u| {np.abs(u).max():.3g}, changed by {np.abs(u - u0).max():.3g}")
    np.savez_compressed(DATA, **found)  # type: ignore[arg-type]  # names of arrays are no flags


def cases() -> dict[str, tuple[Array, Callable[[float], Any], float, int]]:
    """Of each problem: the initial field (C, *space), its stepper for a step, the time, and in how many steps."""
    x = np.arange(128) / 128
    wave = np.sin(2 * np.pi * x + 0.3) + 0.4 * np.cos(6 * np.pi * x)
    p, q = np.meshgrid(np.arange(64) / 64, np.arange(64) / 64, indexing="ij")
    swirl = np.sin(2 * np.pi * (p + 2 * q)) + 0.7 * np.cos(2 * np.pi * (3 * p - q) + 1.0)
    spot = np.exp(-((p - 0.45) ** 2 + (q - 0.55) ** 2) / (2 * 0.07**2))
    one, two, kept = ex.stepper, ex.stepper.reaction, {"order": 4, "conservative": True}
    kdv = {"convection_scale": 0.0125, "dispersivity": 8.545e-7, "hyper_diffusivity": 1.717e-9}
    flow = {"diffusivity": 0.01, "convection_scale": -1.0, "drag": -0.1, "injection_mode": 4}  # its vorticity is -curl
    burgers = partial(one.Burgers, 1, 1.0, 128, diffusivity=0.05 / np.pi, **kept)  # PDEBench divides by pi
    return {
        "burgers1d": (wave[None], burgers, 0.3, 3000),
        "ks1d": (wave[None], partial(one.KuramotoSivashinskyConservative, 1, 64.0, 128, **kept), 4.0, 4000),
        "kdv1d": (0.5 * wave[None], partial(one.KortewegDeVries, 1, 1.0, 128, **kdv, **kept), 5.0, 2000),
        "kolmogorov2d": (
            swirl[None],
            partial(one.KolmogorovFlowVorticity, 2, 2 * np.pi, 64, **flow, order=4),
            0.5,
            500,
        ),
        "gray_scott2d": (
            np.stack([1 - 0.5 * spot, 0.25 * spot]),
            partial(two.GrayScott, 2, 2.0, 64, order=4),
            4.0,
            400,
        ),
    }


if __name__ == "__main__":
    main()
