"""What all tiers share: the smallest config, and how hypothesis and signals are set up."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch is imported: tests run beside each other
import pytest
from hypothesis import HealthCheck, settings

from flows import ROOT
from ups_models.config.loading import load_config
from ups_models.config.schema import PipelineConfig

settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # no time is asserted
settings.load_profile("ours")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # pytest was started by a script's `&`, and would hand that on
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def smoke() -> PipelineConfig:
    """configs/smoke.yaml."""
    return load_config(ROOT / "configs" / "smoke.yaml", schema=PipelineConfig)
