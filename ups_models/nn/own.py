"""Networks of the user's own: what they are given, what they must do, and how a plain one-step network fits in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ups_models.errors import BadInput
from ups_models.nn.codec import FieldGrid, with_means
from ups_models.own_code import own_code
from ups_models.wording import first_line

GUIDE = "see docs/extension.md"


class Operator(Protocol):
    """What stage `operator` trains: a module with these three methods."""

    def encode(self, u: Tensor) -> Tensor:
        """u (B, C, *space) -> z (B, S, D), float32."""
        ...

    def advance(self, z: Tensor, parameters: Tensor) -> Tensor:
        """z_t (B, S, D), parameters (B, P + 1) -> z_hat_{t+1} (B, S, D)."""
        ...

    def decode(self, z: Tensor, mean: Tensor) -> Tensor:
        """z (B, S, D), means over space (B, C) -> u (B, C, *space), float32."""
        ...


METHODS = ("encode", "advance", "decode")


@dataclass(frozen=True)
class Shapes:
    """What a network of the user's is given when it is made.

    Attributes:
        grid: Of the fields, (B, C, *space), and of the latent tokens (B, S, D).
        dim: Numbers of a latent token, D.
        parameters: Numbers that condition an operator, P + 1: the equation's parameters and ln dt.
        conserved: Of each channel, whether its mean over space is conserved.
    """

    grid: FieldGrid
    dim: int
    parameters: int = 0
    conserved: tuple[bool, ...] = ()

    @property
    def latent(self) -> tuple[int, int]:
        """(S, D)."""
        return self.grid.tokens.size, self.dim

    @property
    def fields(self) -> tuple[int, ...]:
        """(C, *space)."""
        return (self.grid.channels, *self.grid.points)


class OneStep(nn.Module):
    """An operator made of a network that maps fields to fields one step later: write `step`, and nothing else.

    Its latent state is the field itself, a token for each patch, so `latent.dim` must be the size of a patch. Means
    that the problem conserves are kept.
    """

    conserved: Tensor

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        if shapes.dim != shapes.grid.values:
            raise BadInput(
                f"a one-step network has no latent space, so each token is a whole patch: set latent.dim: "
                f"{shapes.grid.values}, not {shapes.dim}, or another latent.tokens"
            )
        self.grid = shapes.grid
        self.register_buffer("conserved", torch.tensor(shapes.conserved), persistent=False)

    def step(self, u: Tensor, parameters: Tensor) -> Tensor:
        """u_t (B, C, *space), parameters (B, P + 1) -> u_{t+1} (B, C, *space)."""
        raise NotImplementedError

    def encode(self, u: Tensor) -> Tensor:
        """A field as its patches."""
        return self.grid.to_patches(u)

    def advance(self, z: Tensor, parameters: Tensor) -> Tensor:
        """The patches of the next field."""
        return self.grid.to_patches(self.step(self.grid.to_fields(z), parameters).float())

    def decode(self, z: Tensor, mean: Tensor) -> Tensor:
        """The field of these patches, with the conserved means."""
        return with_means(self.grid.to_fields(z), mean, self.conserved)


def as_operator(net: nn.Module) -> Operator:
    """The same module, known to have an operator's methods. Raises TypeError."""
    if missing := [name for name in METHODS if not callable(getattr(net, name, None))]:
        raise TypeError(f"{type(net).__name__} has no {', '.join(missing)}")
    return cast("Operator", net)


def unit_of(operator: Operator) -> Tensor | float:
    """Standard deviation of every channel, where the operator knows it; else 1."""
    units = getattr(operator, "units", None)
    return 1.0 if units is None else units.std


def own_operator(reference: str, options: Mapping[str, Any], shapes: Shapes) -> nn.Module:
    """An operator of the user's, tried once. Raises BadInput where it is none."""
    net = _made(reference, options, shapes)
    try:
        operator = as_operator(net)
    except TypeError as error:
        raise BadInput(
            f"{reference}: {error}; an operator has {', '.join(METHODS)}, or is a OneStep: {GUIDE}"
        ) from None
    u = torch.randn(2, *shapes.fields, generator=torch.Generator().manual_seed(0))
    known = torch.zeros(2, shapes.parameters)
    z = _tried(reference, "encode(u)", lambda: operator.encode(u), (2, *shapes.latent))
    z = _tried(reference, "advance(z, parameters)", lambda: operator.advance(z, known), (2, *shapes.latent))
    _tried(reference, "decode(z, mean)", lambda: operator.decode(z, u.flatten(2).mean(-1)), tuple(u.shape))
    return net


def own_denoiser(reference: str, options: Mapping[str, Any], shapes: Shapes, *, residual: int, seen: int) -> nn.Module:
    """A denoiser of the user's, F(c_in x; sigma, context), for tokens of so many numbers and of their context.

    Raises BadInput where it is none.
    """
    net, latent = _made(reference, options, shapes), (2, shapes.latent[0], residual)
    context = torch.zeros(2, shapes.latent[0], seen)
    _tried(reference, "forward(x, sigma, context)", lambda: net(torch.zeros(latent), torch.ones(2), context), latent)
    return net


def own_prior(reference: str, options: Mapping[str, Any], size: int) -> nn.Module:
    """A velocity of the user's, v(x_t, t; a, known), made with the grid's size. Raises BadInput where it is none."""
    net, fields = _made(reference, options, size), torch.ones(2, size, size)
    shape = tuple(fields.shape)
    _tried(reference, "forward(x, t, a, known)", lambda: net(fields, torch.ones(2), fields, torch.ones(2)), shape)
    return net


def _made(reference: str, options: Mapping[str, Any], argument: object) -> nn.Module:
    make = own_code(reference).load()
    try:
        net = make(argument, **options)
    except BadInput as error:
        raise BadInput(f"{reference}: {error}") from None
    except Exception as error:
        given = "".join(f", {name}={value!r}" for name, value in options.items())
        raise BadInput(f"{reference}(shapes{given}) raises {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(net, nn.Module):
        raise BadInput(f"{reference} makes a {type(net).__name__}, expected a torch.nn.Module; {GUIDE}")
    return net


def _tried(reference: str, call: str, act: Any, shape: tuple[int, ...]) -> Tensor:
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            found: object = act()
    except Exception as error:
        raise BadInput(f"{reference}: {call} raises {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(found, Tensor) or tuple(found.shape) != shape:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise BadInput(f"{reference}: {call} gives {got}, expected {shape}; {GUIDE}")
    return found
