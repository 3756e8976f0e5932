"""The science: equations, networks, training, evaluation; and `load_surrogate`, to use what was trained."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ups_models.surrogate import Prediction, Surrogate, load_surrogate

__all__ = ["Prediction", "Surrogate", "load_surrogate"]


def __getattr__(name: str) -> Any:
    """PyTorch is imported with the first of these names that is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ups_models import surrogate

    return getattr(surrogate, name)
