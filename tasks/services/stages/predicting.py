"""Rollouts of a trained surrogate from one file to another."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ups_models.arrays import read_arrays
from ups_models.errors import BadInput
from ups_models.files import write_atomically
from ups_models.surrogate import load_surrogate
from ups_models.wording import shown

FIELDS = "u0"


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
    given = {name: values for name, values in arrays.items() if name.lower() in known}
    said = {name.lower() for name in parameters}
    given = {name: values for name, values in given.items() if name.lower() not in said} | dict(parameters)
    found = surrogate.rollout(arrays[FIELDS], steps=steps, members=members, seed=seed, **given)
    write_atomically(target, partial(_save, {"u": found.u, "t": found.t, **found.coordinates}))
    return found.u.shape


def _arrays(path: Path) -> dict[str, Any]:
    """Raises BadInput."""
    try:
        return read_arrays(path)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; write it with numpy.savez({path.name!r}, {FIELDS}=...)") from None


def _save(arrays: dict[str, Any], file: BinaryIO) -> None:
    np.savez_compressed(file, **arrays)
