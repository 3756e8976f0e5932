"""Which of the processes that train together this one is, and what its bits depend on."""

import platform
from dataclasses import dataclass

import torch

from ups_models.errors import ConfigError


@dataclass(frozen=True)
class World:
    """rank in [0, world_size); one process alone is (0, 1). The caller knows: nothing here reads the environment."""

    rank: int = 0
    world_size: int = 1

    def require_alone(self) -> None:
        """Raise ConfigError where there are others: gradients are not gathered yet."""
        if self.world_size != 1:
            raise ConfigError(
                f"WORLD_SIZE={self.world_size}: training on several processes is not supported yet; start one"
            )


def exactness(device: torch.device) -> dict[str, str]:
    """What a resume must find unchanged to end with the same bits: machine type, threads, PyTorch, world size."""
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    return {
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, accelerator {accelerator}",
        "threads": str(torch.get_num_threads()),
        "torch": str(torch.__version__),
        "world size": str(World().world_size),  # several processes are refused
    }
