"""Peers: what others would train on the same data, with the same recipe, for as long."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from ups_models.errors import BadInput

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Peer:
    """A network of one step, its options, and the peak learning rate that was best on validation rows (bench-peers)."""

    label: str
    file: str
    lr: float
    options: Mapping[str, int] = field(default_factory=dict)
    needs: str | None = None
    """A package that is no dependency of ours; the extra of ours that brings it is called peers."""
    halvings: int = 0
    """How often it halves the grid."""

    @property
    def reference(self) -> str:
        """As a config names a network."""
        return f"{FOLDER / self.file}:Net"


PEERS: Mapping[str, Peer] = {
    "fno": Peer("FNO (neuraloperator)", "fno.py", 8e-3, {"modes": 24, "width": 32, "layers": 4}, "neuralop"),
    "unet": Peer("U-Net", "unet.py", 2e-3, {"width": 32, "levels": 3}, halvings=2),
    "dilresnet": Peer("Dil-ResNet", "dilresnet.py", 4e-3, {"width": 48, "blocks": 3}),
}


def require_peer(name: str, grid: Sequence[int]) -> Peer:
    """The peer of this name. Raises BadInput where what it needs is not installed, or it cannot have such a grid."""
    peer = PEERS[name]
    if peer.needs is not None and find_spec(peer.needs) is None:
        raise BadInput(
            f"evaluations.peers: {name} needs {peer.needs}: pip install 'ups-pipeline[peers]', or leave it out"
        )
    if any(points % 2**peer.halvings for points in grid):
        raise BadInput(
            f"evaluations.peers: {name} needs a grid whose points are divisible by {2**peer.halvings}, and data.points "
            f"is {' x '.join(map(str, grid))}; change it, or leave the peer out"
        )
    return peer
