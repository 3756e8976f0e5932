"""Our own processes with a protection switched off: HARNESS_MUTATION names a function of `harness.mutations`."""

import os
from importlib import import_module


def switch_off() -> None:
    """Do it, where the environment says so; Prefect must have its settings before, or get them from the environment."""
    if os.environ.get("HARNESS_MUTATION"):
        getattr(import_module("harness.mutations"), os.environ["HARNESS_MUTATION"])()
