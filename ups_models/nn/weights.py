"""The tensors of a network, whatever its library puts beside them."""

from torch import Tensor, nn


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers that are kept, by name: of a state_dict the tensors alone."""
    return {name: value for name, value in net.state_dict().items() if isinstance(value, Tensor)}
