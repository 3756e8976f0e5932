"""The emulated markets that a launch can be tried on: what stands behind each, and what a launch is told to find it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.emulators.runpod.emulator import RunpodEmulator
from harness.emulators.vast.emulator import VastEmulator


@dataclass(frozen=True)
class Market:
    """One of them."""

    provider: str
    make: Callable[..., Any]
    key: str
    """The variable of its key."""
    address: Callable[[str], Mapping[str, str]]
    """What a launch finds the emulator by."""


MARKETS = {
    one.provider: one
    for one in (
        Market("vast", VastEmulator, "VAST_API_KEY", lambda url: {"VAST_URL": url}),
        Market("runpod", RunpodEmulator, "RUNPOD_API_KEY", lambda url: {"RUNPOD_URL": f"{url}/v2"}),
    )
}
