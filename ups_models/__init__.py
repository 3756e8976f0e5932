"""The science: equations, networks, training, evaluation; and what a user's own code needs of it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ups_models.nn.own import OneStep, Operator, Shapes
    from ups_models.problems.problem import Axis, Parameter, Problem, Sampling, Solver, Symmetry, mirrored, transposed
    from ups_models.surrogate import Prediction, Surrogate, load_surrogate

_HOMES = {
    "ups_models.surrogate": ("Prediction", "Surrogate", "load_surrogate"),
    "ups_models.nn.own": ("OneStep", "Operator", "Shapes"),
    "ups_models.problems.problem": (
        "Axis",
        "Parameter",
        "Problem",
        "Sampling",
        "Solver",
        "Symmetry",
        "mirrored",
        "transposed",
    ),
}
__all__ = [
    "Axis",
    "OneStep",
    "Operator",
    "Parameter",
    "Prediction",
    "Problem",
    "Sampling",
    "Shapes",
    "Solver",
    "Surrogate",
    "Symmetry",
    "load_surrogate",
    "mirrored",
    "transposed",
]


def __getattr__(name: str) -> Any:
    """PyTorch is imported with the first of these names that needs it."""
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
