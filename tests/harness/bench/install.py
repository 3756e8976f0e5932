"""`make bench-install`: what a rented machine fetches whose image has PyTorch, by package, as pip decides it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlparse

import requests

from flows import ROOT
from tasks.services.rental.machine import CONSTRAINTS, constraints_for

MOST_MB = 300.0
LARGEST = 10


def main() -> int:
    """Print a table; 1 where more is fetched than the bar says."""
    parser = argparse.ArgumentParser(prog="harness.bench.install", description=__doc__)
    parser.add_argument("--torch", default="2.6.0+cu124", help="what the image has")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="install-") as folder:
        found = sorted(_fetched(Path(folder), given.torch), reverse=True)
    for size, name in found[:LARGEST]:
        print(f"{size / 1e6:8.1f} MB  {name}")
    total = sum(size for size, _ in found) / 1e6
    print(f"{total:8.1f} MB  in {len(found)} packages, for an image with PyTorch {given.torch} and nothing else")
    print("     0.0 MB  for the image of deployments/Dockerfile, which has them")
    return int(total > MOST_MB)


def _fetched(folder: Path, torch: str) -> list[tuple[int, str]]:
    """Size and name of every file that pip would fetch, into an environment that knows of this PyTorch."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "image")], check=True)
    site = next((folder / "image" / "lib").glob("python*/site-packages"))
    info = site / f"torch-{torch}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {torch}\n", "utf-8")
    pins, report = folder / CONSTRAINTS, folder / "report.json"
    pins.write_text(constraints_for((ROOT / CONSTRAINTS).read_text("utf-8"), torch), "utf-8")
    pip = [str(folder / "image" / "bin" / "python"), "-m", "pip", "install", "-qqq", "--dry-run"]
    subprocess.run([*pip, "--report", str(report), "-c", str(pins), str(ROOT)], check=True)
    addresses = [entry["download_info"]["url"] for entry in json.loads(report.read_text("utf-8"))["install"]]
    return [(_size(one), Path(urlparse(one).path).name) for one in addresses if one.endswith((".whl", ".gz"))]


def _size(address: str) -> int:
    if address.startswith("file:"):
        return Path(unquote(urlparse(address).path)).stat().st_size
    answer = requests.head(address, timeout=60, allow_redirects=True)
    answer.raise_for_status()
    return int(answer.headers["Content-Length"])


if __name__ == "__main__":
    sys.exit(main())
