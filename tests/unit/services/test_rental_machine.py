"""The environment of a rented machine: its image's PyTorch stays, and one that is missing fits the driver."""

import sys

import pytest

from flows import ROOT
from tasks.services.rental.machine import constraints_for, install, main, torch_to_install
from tasks.services.rental.provider import MachineSpec, Offer
from tasks.services.rental.torch_wheels import BUILDS, NEWEST, build_for, least_cuda, series_of, wheel_for

PINS = "h5py==3.16.0\nnvidia-cublas-cu12==12.8\ntorch==2.13.0\ntriton==3.7\ncuda-bindings==13.0\nwandb==0.31.0\n"
WHL = "https://download.pytorch.org/whl"


@pytest.fixture
def job(tmp_path):
    (tmp_path / "constraints.txt").write_text(PINS, encoding="utf-8")
    (tmp_path / "ups_pipeline-0.1.0-py3-none-any.whl").touch()
    return tmp_path


@pytest.fixture
def installed(job):
    """Carries an installation out; returns its exit code and the arguments of pip in each call."""

    def carry_out(torch, *codes):
        calls, left = [], list(codes)

        def run(command):
            assert command[:4] == [sys.executable, "-m", "pip", "install"]
            calls.append(list(command[4:]))
            return left.pop(0) if left else 0

        return install(job, torch, run), calls

    return carry_out


def test_the_pins_leave_the_torch_of_the_image_and_what_came_with_it_alone():
    assert constraints_for(PINS, "2.6.0+cu124") == "h5py==3.16.0\nwandb==0.31.0\ntorch==2.6.0+cu124\n"
    assert constraints_for(PINS, None) == "h5py==3.16.0\nwandb==0.31.0\n"


def test_an_image_with_torch_gets_the_other_dependencies_in_one_call(installed, job):
    code, calls = installed("2.6.0+cu124")

    assert (code, len(calls)) == (0, 1)
    assert calls[0][-3:] == [
        "-c",
        str(job / "constraints-machine.txt"),
        str(job / "ups_pipeline-0.1.0-py3-none-any.whl"),
    ]
    assert "torch==2.6.0+cu124" in (job / "constraints-machine.txt").read_text("utf-8")


def test_an_image_without_torch_gets_the_one_that_fits_the_driver_first(installed, monkeypatch):
    monkeypatch.setenv("UPS_DEVICE", "auto")
    monkeypatch.setenv("UPS_CUDA", "12.4")

    code, calls = installed(None)

    assert (code, len(calls)) == (0, 2)
    assert calls[0][-3:] == ["--index-url", f"{WHL}/cu126", "torch==2.13.0"]
    assert "--index-url" not in calls[1]


def test_a_torch_that_cannot_be_installed_ends_the_installation(installed, monkeypatch):
    monkeypatch.setenv("UPS_CUDA", "12.4")

    code, calls = installed(None, 5)

    assert (code, len(calls)) == (5, 1)


def test_a_driver_that_runs_no_torch_is_named(installed, monkeypatch, capsys):
    monkeypatch.setenv("UPS_CUDA", "10.2")

    code, calls = installed(None)

    assert (code, calls) == (1, [])
    assert "no PyTorch is built for the driver" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "driver_cuda", "wanted"),
    [
        ("cpu", "", ["--index-url", f"{WHL}/cpu", "torch==2.13.0"]),
        ("cpu", "13.0", ["--index-url", f"{WHL}/cpu", "torch==2.13.0"]),
        ("auto", "", ["torch==2.13.0"]),
        ("auto", "13.1", ["--index-url", f"{WHL}/cu130", "torch==2.13.0"]),
        ("cuda", "13.2", ["--index-url", f"{WHL}/cu132", "torch==2.13.0"]),
        ("cuda", "12.8", ["--index-url", f"{WHL}/cu126", "torch==2.13.0"]),
        ("cuda", "11.8", ["--index-url", f"{WHL}/cu118", "torch==2.7.*"]),
        ("cuda", "9.0", []),
    ],
)
def test_the_offer_decides_which_index_pip_asks(device, driver_cuda, wanted):
    assert torch_to_install(PINS, device, driver_cuda) == wanted


def test_a_job_without_pins_asks_for_the_torch_that_the_project_is_tested_with():
    pinned = next(line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line[:7] == "torch==")

    assert torch_to_install("", "auto", "") == [f"torch=={NEWEST}"] == [pinned]
    assert series_of(NEWEST) in BUILDS


@pytest.mark.parametrize("torch", BUILDS)
@pytest.mark.parametrize("driver_cuda", [11.8, 12.0, 12.4, 12.6, 12.8, 12.9, 13.0, 13.2, 13.4])
def test_no_build_needs_a_driver_of_another_major_version_or_a_newer_one_without_need(torch, driver_cuda):
    build = build_for(torch, driver_cuda)

    if build is None:
        assert all(int(cuda) > int(driver_cuda) for cuda in BUILDS[torch])
    else:
        assert int(build) <= int(driver_cuda)
        assert build <= driver_cuda or min(cuda for cuda in BUILDS[torch] if int(cuda) == int(driver_cuda)) == build


def test_a_torch_that_the_table_does_not_know_falls_back_to_one_that_it_knows():
    assert wheel_for("2.99.0", 12.4) == ("torch==2.14.*", f"{WHL}/cu126")


@pytest.mark.parametrize(
    ("image", "cuda"),
    [
        (MachineSpec.image, 12.4),
        ("pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime", 13.0),
        ("vastai/pytorch:2.6.0-cu118-py311", 11.8),
        ("nvidia/cuda:12.8.1-base", 12.8),
        ("python:3.11", 12.4),
    ],
)
def test_the_driver_must_support_what_the_image_was_built_for(image, cuda):
    assert least_cuda(image) == MachineSpec(image=image).min_cuda == cuda


def test_a_machine_is_told_what_its_offer_says_of_the_driver():
    assert Offer("1", "1", "RTX 4090", 1, 0.2, "DE", 12.8).environment() == {"UPS_CUDA": "12.8"}
    assert Offer("1", "1", "RTX 4090", 1, 0.2, "DE").environment() == {}


def test_a_machine_whose_torch_sees_no_gpu_is_refused_with_the_reason(capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")

    assert main(["cuda"]) == 1
    assert f"PyTorch {torch.__version__}" in capsys.readouterr().err


def test_a_wrong_call_is_said(capsys):
    assert main(["instal"]) == 2
    assert "usage" in capsys.readouterr().err
