"""What two runs of one config must share to the bit, and how far apart they are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

EVALUATIONS = ("small_eval", "full_eval")
UNCOMPARED = frozenset({"schema_version", "created_at", "seconds", "speed"})
"""Numbers of the reports and the history that say in which format, when and how fast, and nothing of the result."""
RENAMED = {"checks": "gates", "stretch_goal": "goal"}
"""Today's key of a report -> its key in the first edition, where a key was renamed: both are compared by the second."""
ABSENT = "absent"
ADDED = re.compile(
    r"\.json: network\.|\.json: probabilistic_rollout\.\w+\.horizons\.|\.json: gates\.|\.(p90|crps_p90|crps_median)$"
    r"|\.json: probabilistic(_rollout)?\.operator\.nrmse$|\.json: darcy\.\w+\.mae$|\.npz: (film|row)_"
)
"""What the reports of the first edition did not have, or had otherwise: compared where both have it."""
OF_THE_DEFAULT = re.compile(r"\.npz: member_samples$")
"""One ensemble, drawn by the default sampler: that is another one since the first edition."""
CHECK = {"name", "value", "bound"}
"""Keys of a check. It is known by its name, and its value is compared: which bound it is held against is no result."""

Contents = dict[str, dict[str, Any]]


def contents(run: Path) -> Contents:
    """All that two runs must share, by kind and by file and name. Raises OSError where a report is missing."""
    checkpoints = sorted((run / "checkpoints").rglob("*.pt"))
    evaluations = [run / "reports" / name for name in EVALUATIONS]
    return {
        "tensors": {
            f"{path.relative_to(run)}: {name}": value
            for path in checkpoints
            for name, value in leaves(torch.load(path, map_location="cpu", weights_only=True))
            if isinstance(value, Tensor)
        },
        "figures": {
            f"reports/{path.name}.json: {name}": value
            for path in evaluations
            for name, value in leaves(json.loads(path.with_suffix(".json").read_text("utf-8")))
            if not isinstance(value, str)
        },
        "arrays": {
            f"reports/{path.name}.npz: {RENAMED.get(name, name)}": value
            for path in evaluations
            for name, value in _arrays(path.with_suffix(".npz"))
        },
        "rows": dict(history(run / "reports" / "metrics.jsonl")),
    }


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Everything inside nested tables and lists, by its path in them; a key that holds None counts as absent."""
    if isinstance(value, dict):
        known = {str(key): item for key, item in value.items() if key not in UNCOMPARED and item is not None}
        items = [(RENAMED.get(key, key), item) for key, item in known.items()]
    elif isinstance(value, list) and value and all(isinstance(item, dict) and item.keys() >= CHECK for item in value):
        items = [(item["name"], item["value"]) for item in value]
    elif isinstance(value, list | tuple):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        yield name, value
        return
    for key, item in items:
        yield from leaves(item, f"{name}.{key}" if name else key)


def history(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each step measured; of a step that was done again after a kill, the last row counts."""
    for line in path.read_text("utf-8").splitlines():
        row = dict(sorted(leaves(json.loads(line))))
        yield f"reports/{path.name}: {row['stage']}, step {row['step']}", row


def differences(there: Contents, here: Contents, *, apart: re.Pattern[str] | None = None) -> list[str]:
    """What differs, by kind, file and name, but what is `apart`; and every kind of which nothing is to be compared."""
    found = [f"no {kind} to compare" for kind in there if not there[kind]]
    for kind in there:
        for name in dict.fromkeys([*there[kind], *here[kind]]):
            one, other = there[kind].get(name, ABSENT), here[kind].get(name, ABSENT)
            if ADDED.search(name) and ABSENT in (str(one), str(other)):
                continue
            if apart is not None and apart.search(name):
                continue
            if bits(one) != bits(other):
                found.append(f"{name}: {gap(one, other)}")
    return found


def bits(value: Any) -> Any:
    """What two equal values share: type, shape and every bit."""
    if isinstance(value, Tensor):
        flat = value.detach().contiguous().reshape(-1).view(torch.uint8)
        return str(value.dtype), tuple(value.shape), flat.numpy().tobytes()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    return repr(value)


def gap(there: Any, here: Any) -> str:
    """How far two different values are apart, in words."""
    one, other = _numbers(there), _numbers(here)
    if one is None or other is None or one.shape != other.shape:
        return f"{_brief(there)} there, {_brief(here)} here"
    with np.errstate(invalid="ignore"):  # inf - inf
        largest = np.nan_to_num(np.abs(one - other), posinf=np.inf).max(initial=0.0)
    types = {bits(value)[0] for value in (there, here) if isinstance(value, Tensor | np.ndarray)}
    return f"largest difference {largest:.3g}" + (f" ({' and '.join(sorted(types))})" if len(types) > 1 else "")


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        value = [item for item in value.values() if not isinstance(item, str)]
    elif isinstance(value, Tensor):
        value = value.detach().to(torch.complex128 if value.is_complex() else torch.float64).numpy()
    array = np.asarray(value)
    return None if array.dtype.kind in "OSU" else array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _brief(value: Any) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor | np.ndarray) else repr(value)


def _arrays(path: Path) -> list[tuple[str, Any]]:
    with np.load(path, allow_pickle=False) as arrays:
        return list(arrays.items())
