"""Makes a rented machine fit for its job: `python -m tasks.services.rental.machine install FOLDER`, then `... cuda`.

Runs before the job's dependencies are there, so it needs nothing but Python itself.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tasks.services.rental.torch_wheels import CPU_INDEX, NEWEST, wheel_for
from tasks.services.run import environment

PIP = (sys.executable, "-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check", "--no-input")
COMES_WITH_TORCH = re.compile(r"(torch|triton|nvidia-[\w.-]+|cuda-[\w.-]+)==", re.IGNORECASE)
"""Pins of PyTorch and of what its wheel for one CUDA brings along."""
PINNED = re.compile(r"^torch==([\w.]+)", re.MULTILINE)
CONSTRAINTS, OWN_CONSTRAINTS = "constraints.txt", "constraints-machine.txt"

Run = Callable[[Sequence[str]], int]
"""Runs a command; its exit code."""


def main(arguments: Sequence[str]) -> int:
    """Install a job that lies in a folder, or check CUDA; 0 when all is well."""
    match arguments:
        case ["install", folder]:
            return install(Path(folder), installed_torch())
        case ["cuda"]:
            return 0 if sees_cuda() else 1
    sys.stderr.write("usage: python -m tasks.services.rental.machine install FOLDER | cuda\n")
    return 2


def install(folder: Path, torch: str | None, run: Run = subprocess.call) -> int:
    """Install the job's wheel with its dependencies; pip's exit code.

    The PyTorch that is there stays, whatever the pins say: it fits the image's CUDA and this machine's driver. Where
    there is none it comes from the index that fits the driver.

    Args:
        folder: Holds the wheel, and the pins of all dependencies where the job has some.
        torch: The version that is installed; None for none.
        run: What runs pip.
    """
    pins = folder / CONSTRAINTS
    text = pins.read_text("utf-8") if pins.is_file() else ""
    own = folder / OWN_CONSTRAINTS
    own.write_text(constraints_for(text, torch), encoding="utf-8")
    if torch is None:
        wanted = torch_to_install(text, environment.get(environment.DEVICE), environment.get(environment.CUDA))
        if not wanted:
            sys.stderr.write("no PyTorch is built for the driver of this machine; choose an --image that has one\n")
            return 1
        if code := run([*PIP, *wanted]):
            return code
    return run([*PIP, "-c", str(own), *sorted(str(path) for path in folder.glob("*.whl"))])


def torch_to_install(pins: str, device: str, driver_cuda: str) -> list[str]:
    """What pip is asked for; nothing where no PyTorch runs on such a driver.

    Args:
        pins: The job's pins of its dependencies.
        device: What the job trains on; for cpu the wheel without CUDA does.
        driver_cuda: The newest CUDA that the driver supports; empty where nobody knows: then PyPI's own choice.
    """
    pinned = found[1] if (found := PINNED.search(pins)) else NEWEST
    if device == "cpu":
        return ["--index-url", CPU_INDEX, f"torch=={pinned}"]
    if not driver_cuda:
        return [f"torch=={pinned}"]
    wheel = wheel_for(pinned, float(driver_cuda))
    return ["--index-url", wheel[1], wheel[0]] if wheel is not None else []


def constraints_for(pins: str, torch: str | None) -> str:
    """The pins without those of PyTorch; the version that is installed is the only one allowed."""
    lines = [line for line in pins.splitlines() if not COMES_WITH_TORCH.match(line)]
    return "".join(f"{line}\n" for line in [*lines, *([f"torch=={torch}"] if torch is not None else [])])


def installed_torch() -> str | None:
    """The version of the PyTorch that this Python would import; None for none."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return None


def sees_cuda() -> bool:
    """Whether the PyTorch that will train can compute on a GPU of this machine; says what it is otherwise."""
    try:
        import torch

        usable = torch.cuda.is_available() and torch.ones(2, device=torch.device("cuda")).sum().item() == 2
        why = f"PyTorch {torch.__version__}, built for CUDA {torch.version.cuda}, sees no GPU"
    except (ImportError, RuntimeError) as error:
        usable, why = False, f"PyTorch cannot use the GPU: {error}"
    if not usable:
        sys.stderr.write(f"{why}; the driver supports CUDA {environment.get(environment.CUDA) or 'unknown'}\n")
    return usable


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
