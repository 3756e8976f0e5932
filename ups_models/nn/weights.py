"""The tensors of a network, whatever its library puts beside them."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers that are kept, by name: of a state_dict the tensors alone."""
    return {name: value for name, value in net.state_dict().items() if isinstance(value, Tensor)}


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """The sha256 of names, types, shapes and numbers, whatever wrote them and in whatever order."""
    found = hashlib.sha256()
    for name, value in sorted(weights.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        numbers = value.detach().cpu().contiguous().reshape(-1)
        found.update(numbers.view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return found.hexdigest()
