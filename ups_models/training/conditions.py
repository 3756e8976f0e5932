"""What the bits of a training depend on beside its config, seed and data."""

import platform
from collections.abc import Mapping

import torch

from ups_models.config.schema import PipelineConfig

OPTIONAL = ("precision", "kernels")
"""Conditions that are recorded where they are unusual."""
CUBLAS_WORKSPACE = ":4096:8"
"""What CUBLAS_WORKSPACE_CONFIG must be for products that repeat their bits."""


def exactness(cfg: PipelineConfig, device: torch.device) -> dict[str, str]:
    """What a resume must find unchanged to end with the same bits: machine type, threads, PyTorch, precision."""
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    on_cuda = {
        "CUDA": str(torch.version.cuda),
        "cuDNN": str(torch.backends.cudnn.version()),
        "TF32": str(torch.backends.cuda.matmul.allow_tf32),
        "repeatable kernels": str(torch.are_deterministic_algorithms_enabled()),
    }
    return {
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, accelerator {accelerator}",
        "threads": str(torch.get_num_threads()),
        "torch": str(torch.__version__),
        **(on_cuda if device.type == "cuda" else {}),
        **({"precision": "bfloat16"} if uses_bfloat16(cfg, device) else {}),
        **({"kernels": "compiled"} if is_compiled(cfg, device) else {}),
    }


def make_repeatable(*, tf32: bool) -> None:
    """Choose kernels on a GPU that give the same bits every time; what has none warns. Before its first product.

    cuBLAS asks for CUBLAS_WORKSPACE in the environment beside it.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32


def changed(saved: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """In words, what is not as it was."""
    names = [*now, *(name for name in OPTIONAL if name in saved.keys() - now.keys())]
    return [
        f"{name} was {saved.get(name, 'not set')} when the state was saved and is {now.get(name, 'not set')} now"
        for name in names
        if saved.get(name) != now.get(name)
    ]


def uses_bfloat16(cfg: PipelineConfig, device: torch.device) -> bool:
    """Whether matrix products run in bfloat16 here."""
    precision = cfg.runtime.precision
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")


def is_compiled(cfg: PipelineConfig, device: torch.device) -> bool:
    """Whether kernels are made for the networks here."""
    return cfg.runtime.compile and device.type == "cuda"
