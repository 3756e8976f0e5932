"""What is promised on a GPU, tried on one: in parts that run singly, each of which leaves its result when it is done.

    make gpu-proof PART="stages speed"
    PYTHONPATH=.:tests python -m harness.gpu --out gpu-proof

The second form needs PyTorch 2.6 or later, numpy, h5py, pyyaml and pydantic, and nothing else. Without a GPU everything
runs on the CPU with small networks, and says so.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA is initialised

import torch

from harness.gpu.parts import PARTS, Bench
from ups_models.training.conditions import make_repeatable


def main() -> int:
    """Run the parts, and print all results that lie in the folder."""
    parser = argparse.ArgumentParser(prog="gpu-proof", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help=f"some of {', '.join(PARTS)}; default all")
    parser.add_argument("--out", type=Path, default=Path("gpu-proof"), help="folder of the results")
    parser.add_argument("--cpu", action="store_true", help="although there is a GPU")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() and not arguments.cpu else "cpu")
    if device.type == "cuda":
        make_repeatable(tf32=False)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.parts or PARTS:
        began = time.monotonic()
        found = PARTS[name](Bench.on(device))
        kept = {"machine": machine(device), "seconds": round(time.monotonic() - began, 1), **found}
        (arguments.out / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
        print(f"{name}: {'well' if found['well'] else 'WRONG'}, {kept['seconds']} s", flush=True)
    files = {name: arguments.out / f"{name}.json" for name in PARTS}
    results = {name: json.loads(path.read_text("utf-8")) for name, path in files.items() if path.is_file()}
    print("\n".join(table(name, result) for name, result in results.items()))
    return 0 if all(result["well"] for result in results.values()) else 1


def machine(device: torch.device) -> str:
    """In words."""
    here = f"{platform.machine()}, Python {platform.python_version()}, PyTorch {torch.__version__}"
    return f"{torch.cuda.get_device_name(device)}, {here}" if device.type == "cuda" else f"no GPU, {here}"


def table(name: str, result: Mapping[str, Any]) -> str:
    """One part as Markdown."""
    rows: list[Mapping[str, Any]] = result["rows"]
    lines = [f"\n### {name}: {result['what']} ({result['machine']})\n"]
    lines += [f"| {' | '.join(rows[0])} |", "|" + "---|" * len(rows[0])]
    lines += [f"| {' | '.join(str(value) for value in row.values())} |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
