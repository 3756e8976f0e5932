"""Where this process stands among those that train together."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class World:
    """rank in [0, world_size); one process alone is (0, 1)."""

    rank: int
    world_size: int


def world() -> World:
    """Rank and world size as torchrun tells them (RANK, WORLD_SIZE), or one process alone."""
    return World(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def exactness(device: torch.device) -> dict[str, str]:
    """What a resume must find unchanged to end with the same bits: machine type, threads, PyTorch, world size."""
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    return {
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, accelerator {accelerator}",
        "threads": str(torch.get_num_threads()),
        "torch": str(torch.__version__),
        "world size": str(world().world_size),
    }
