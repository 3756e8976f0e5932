"""What tests the product from outside: chaos, emulators, benchmarks. Nothing of the product imports it."""

import os

from flows import ROOT

PYTHONPATH = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
"""For a child process that runs a module of the harness."""
