"""Rollouts of a trained surrogate from one file to another."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ups_models.arrays import read_arrays
from ups_models.errors import BadInput, UPSError
from ups_models.files import write_atomically
from ups_models.surrogate import Array, load_surrogate
from ups_models.wording import shown

logger = logging.getLogger(__name__)

FIELDS, TIMES = "u0", "t"


def predict(
    run: Path,
    source: Path,
    target: Path,
    *,
    steps: int,
    members: int | None,
    seed: int,
    device: str,
    parameters: Mapping[str, float],
    trust_code: Sequence[str] = (),
) -> tuple[int, ...]:
    """Roll out from the array u0 of an .npz, and write u, t and the coordinates as another; returns the shape of u.

    Parameters of the equation are given by name, or lie in the file beside u0. Raises BadInput, CheckpointError.
    """
    surrogate, arrays = load_surrogate(run, device=device, trust_code=trust_code), _arrays(source)
    if FIELDS not in arrays:
        raise BadInput(f"{source}: holds no array {FIELDS}, but {', '.join(map(shown, arrays)) or 'nothing'}")
    known = {name.lower() for name in surrogate.parameters}
    beside = {FIELDS, TIMES, *(axis.name for axis in surrogate.problem.axes)}
    for name in arrays:
        if name.lower() not in known and name not in beside:
            logger.warning(
                "%s: array %s is no parameter of %s, and not used", source, shown(name), surrogate.problem.name
            )
    given = {name: values for name, values in arrays.items() if name.lower() in known}
    said = {name.lower() for name in parameters}
    given = {name: values for name, values in given.items() if name.lower() not in said} | dict(parameters)
    found = surrogate.rollout(arrays[FIELDS], steps=steps, members=members, seed=seed, **given)
    _require_finite(found.u, surrogate.problem.dimensions)
    write_atomically(target, partial(_save, {"u": found.u, "t": found.t, **found.coordinates}))
    return found.u.shape


def _require_finite(u: Array, dimensions: int) -> None:
    """Raise UPSError where a forecast has grown beyond all numbers, with the step where it did."""
    is_finite = np.isfinite(u).all(axis=tuple(range(-1 - dimensions, 0)))
    steps = is_finite.reshape(-1, is_finite.shape[-1]).all(axis=0)
    if not steps.all():
        first = int(np.argmin(steps))
        raise UPSError(
            f"the forecast is not finite from step {first} on, and nothing was written; ask for fewer --steps"
        )


def _arrays(path: Path) -> dict[str, Any]:
    """Raises BadInput."""
    try:
        return read_arrays(path)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; write it with numpy.savez({path.name!r}, {FIELDS}=...)") from None


def _save(arrays: dict[str, Any], file: BinaryIO) -> None:
    np.savez_compressed(file, **arrays)
