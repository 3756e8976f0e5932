"""Where this process stands among those that train together."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """rank in [0, world_size); one process alone is (0, 1)."""

    rank: int
    world_size: int

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0


def world() -> World:
    """Rank and world size as torchrun tells them (RANK, WORLD_SIZE), or one process alone."""
    return World(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
