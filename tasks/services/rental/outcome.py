"""Reports how training on a rented machine ended to its W&B run: `python -m tasks.services.rental.outcome CODE`."""

from __future__ import annotations

import sys

from tasks.services.run import environment
from tasks.services.tracking.coordination import WandbCoordination, generation
from tasks.services.tracking.run_path import RunPath
from ups_models.config.schema import TrackingConfig
from ups_models.errors import UPSError


def main(arguments: list[str]) -> int:
    """Record exit code and generation in the run that UPS_RUN names; 0 when W&B has them."""
    cfg = TrackingConfig()
    try:
        run = RunPath.parse(environment.get(environment.RUN), cfg)
        WandbCoordination(run, cfg).record_exit(generation() or 0, int(arguments[0]))
    except UPSError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
