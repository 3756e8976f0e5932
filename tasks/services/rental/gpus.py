"""GPUs by name: however a provider spells it, and how fast its memory is."""

UNKNOWN_GB_PER_S = 600.0
GB_PER_S = {
    "A10": 600, "A100": 1555, "A100_PCIE": 1555, "A100_SXM4": 2039, "A40": 696,
    "B200": 8000, "GTX_1080_TI": 484, "H100": 3350, "H100_NVL": 3900, "H100_PCIE": 2039, "H100_SXM": 3350, "H200": 4800,
    "L4": 300, "L40": 864, "L40S": 864, "RTX_2080_TI": 616, "RTX_3060": 360, "RTX_3070": 448, "RTX_3080": 760,
    "RTX_3080_TI": 912, "RTX_3090": 936, "RTX_3090_TI": 1008, "RTX_4060_TI": 288, "RTX_4070": 504, "RTX_4070_TI": 504,
    "RTX_4080": 717, "RTX_4090": 1008, "RTX_5070_TI": 896, "RTX_5080": 960, "RTX_5090": 1792, "RTX_6000_ADA": 960,
    "RTX_A4000": 448, "RTX_A5000": 768, "RTX_A6000": 768, "T4": 320, "V100": 900,
}  # fmt: skip
"""Memory bandwidth as NVIDIA publishes it: small networks on grids read far more than they compute."""

NOT_NAMES = ("NVIDIA", "GEFORCE", "TESLA")


def gpu_key(gpu: str) -> str:
    """One name for a GPU however a provider spells it, such as RTX_4090."""
    words = gpu.upper().replace("-", " ").replace("_", " ").split()
    return "_".join(word for word in words if word not in NOT_NAMES and not word.endswith("GB"))


def bandwidth(gpu: str) -> float:
    """GB/s of a GPU's memory; of one that is not known, of a middling one."""
    key = gpu_key(gpu)
    fits = [name for name in GB_PER_S if key == name or key.startswith(f"{name}_")]
    return float(GB_PER_S[max(fits, key=len)]) if fits else UNKNOWN_GB_PER_S
