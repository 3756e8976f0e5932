"""An image for the emulated machines: a Python of its own whose PyTorch, by its version, sees a GPU or sees none.

The code of PyTorch and of all else is that of this environment, through links; only what pip knows of it differs.
So pip's real decisions are seen without any download.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

HIDDEN = ("torch-*.dist-info", "h5py", "h5py.libs", "h5py-*.dist-info", "*.pth", "__pycache__", "ups_pipeline*")
LACKING = ("h5py", "h5py.libs")
"""What the image has not, so that something must be installed."""
GPU_LOG = "gpu-was-used"
"""In the home of a machine: what asked for its GPU, one program a line."""
SITECUSTOMIZE = f'''
"""The driver of an emulated machine: it runs what is built for CUDA 12, which PyTorch 2.6 is and 2.13 is not."""

import sys
from importlib.abc import MetaPathFinder
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path


class Driver(MetaPathFinder):
    """Lays the emulated GPU over PyTorch, once that is imported."""

    def find_spec(self, name, path, target=None):
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = find_spec("torch")
        run = spec.loader.exec_module

        def run_and_cover(module):
            run(module)
            cover(module, sees_gpu=version("torch").startswith("2.6"))

        spec.loader.exec_module = run_and_cover
        return spec


def cover(torch, *, sees_gpu):
    """Computes on the processor what is asked of the GPU, and notes who asked."""
    real = torch.device
    torch.cuda.is_available = lambda: sees_gpu

    class Kind(type):
        def __instancecheck__(cls, value):
            return isinstance(value, real)

        def __call__(cls, *given, **named):
            if sees_gpu and str(given[:1]).find("cuda") >= 0:
                with (Path.home() / "{GPU_LOG}").open("a") as log:
                    log.write(sys.argv[0] + "\\n")
                return real("cpu")
            return real(*given, **named)

    torch.device = Kind("device", (), {{}})


sys.meta_path.insert(0, Driver())
'''


@dataclass(frozen=True)
class Image:
    """Where the programs of an image lie, and what its processes get in their environment."""

    path: str
    environment: dict[str, str]
    site: Path

    def torch(self) -> list[str]:
        """The versions of PyTorch that pip has left in it."""
        return sorted(one.name.removeprefix("torch-").removesuffix(".dist-info") for one in self.site.glob("torch-*"))


def build_image(folder: Path, *, torch: str) -> Image:
    """Make an image that has this version of PyTorch, and a local index that holds a newer one."""
    here = Path(sysconfig.get_path("purelib"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    hidden = {path for pattern in HIDDEN for path in here.glob(pattern)}
    _link([path for path in here.iterdir() if path not in hidden], folder / "shared")
    _link([here / name for name in LACKING if (here / name).exists()], folder / "lacking")
    (site / "shared.pth").write_text(f"{folder / 'shared'}\n", "utf-8")
    (site / "sitecustomize.py").write_text(SITECUSTOMIZE, "utf-8")
    info = site / f"torch-{torch}.dist-info"
    info.mkdir()
    for name, text in _metadata("torch", torch).items():
        (info / name).write_text(text, "utf-8")
    wheels = folder / "wheels"
    wheels.mkdir()
    _write_wheel(wheels, "torch", version("torch").partition("+")[0], {})
    _write_wheel(wheels, "h5py", version("h5py"), {"h5py_of_the_index.pth": f"{folder / 'lacking'}\n"})
    only_here = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": "/dev/null"}
    return Image(f"{folder / 'bin'}:/usr/local/bin:/usr/bin:/bin", only_here, site)


def _link(paths: list[Path], folder: Path) -> None:
    folder.mkdir()
    for path in paths:
        (folder / path.name).symlink_to(path)


def _metadata(name: str, number: str) -> dict[str, str]:
    """A dist-info folder whose owner can be uninstalled: its record names nothing but itself."""
    info = f"{name}-{number}.dist-info"
    return {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: harness\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "INSTALLER": "pip\n",
        "RECORD": "".join(f"{info}/{file},,\n" for file in ("METADATA", "WHEEL", "INSTALLER", "RECORD")),
    }


def _write_wheel(folder: Path, name: str, number: str, files: dict[str, str]) -> None:
    info = f"{name}-{number}.dist-info"
    content = files | {f"{info}/{file}": text for file, text in _metadata(name, number).items() if file != "INSTALLER"}
    rows = [f"{path},{_digest(text)},{len(text)}" for path, text in content.items() if not path.endswith("RECORD")]
    content[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    with ZipFile(folder / f"{name}-{number}-py3-none-any.whl", "w") as wheel:
        for path, text in content.items():
            wheel.writestr(path, text)


def _digest(text: str) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"
