"""deployments/Dockerfile: its steps, typed in an emulated image, leave nothing to install and PyTorch as it was."""

import re
import shutil
import subprocess

import pytest

from flows import ROOT
from harness.emulators.images import build_image

TORCH = "2.6.0+cu124"
NEEDED = re.search(r"python3 -c '(import flows[^']+)'", (ROOT / "tasks/services/rental/onstart.sh").read_text("utf-8"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An image after every RUN of the Dockerfile, and what runs a command in it."""
    folder = tmp_path_factory.mktemp("docker")
    image = build_image(folder / "image", torch=TORCH)
    text = (ROOT / "deployments" / "Dockerfile").read_text("utf-8").replace("/tmp/", f"{folder}/")
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    names = [name.removeprefix("**/") for name in ignored]
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*names), symlinks=True)

    def run(command, **more):
        variables = {"PATH": image.path, "HOME": str(folder), "PIP_NO_BUILD_ISOLATION": "false", **image.environment}
        words = ["bash", "-c", command]
        return subprocess.run(words, check=False, env=variables | more, capture_output=True, text=True, cwd=folder)

    for line in text.splitlines():
        if line.startswith("RUN "):
            done = run(line.removeprefix("RUN "))
            assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    return image, run


def test_pytorch_is_the_one_of_the_image_and_matches_the_launch_s_default(built):
    image, _ = built

    assert image.torch() == [TORCH]
    assert f"FROM pytorch/pytorch:{TORCH.partition('+')[0]}-cuda12.4" in (ROOT / "deployments/Dockerfile").read_text()


def test_nothing_is_left_to_install_for_a_job_that_brings_its_code(built):
    _, run = built
    assert NEEDED is not None

    with_code = run(f"python3 -c '{NEEDED[1]}'", PYTHONPATH=str(ROOT))
    without = run("python3 -c 'import flows.pipeline'")

    assert with_code.returncode == 0, with_code.stderr
    assert "No module named 'flows" in without.stderr
