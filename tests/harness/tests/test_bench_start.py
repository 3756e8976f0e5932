"""The count of moves knows every room of the product."""

from pathlib import Path

import pytest

from flows import ROOT
from harness.bench.start import PACKAGES, room_of

MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in PACKAGES
    for path in sorted(Path(ROOT / package).rglob("*.py"))
]


@pytest.mark.parametrize("module", [name for name in MODULES if "." in name])
def test_every_module_lies_in_a_room_that_has_a_layer(module):
    assert isinstance(room_of(f"{module}:anything"), str)
