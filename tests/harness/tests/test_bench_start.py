"""The count of moves knows every room of the product, and where the way that it counts ends."""

from pathlib import Path

import pytest

from flows import ROOT
from harness.bench.probe import FIRST_STEP
from harness.bench.start import PACKAGES, room_of
from ups_models.training.steps import Steps

MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in PACKAGES
    for path in sorted(Path(ROOT / package).rglob("*.py"))
]


@pytest.mark.parametrize("module", [name for name in MODULES if "." in name])
def test_every_module_lies_in_a_room_that_has_a_layer(module):
    assert isinstance(room_of(f"{module}:anything"), str)


def test_the_first_training_step_is_known_by_its_name():
    assert FIRST_STEP.fullmatch(f"{Steps.take.__module__}:{Steps.take.__qualname__}")
