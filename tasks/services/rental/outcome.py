"""Reports how training on a rented machine ended to its W&B run: `python -m tasks.services.rental.outcome CODE`."""

import sys
import time
from collections.abc import Callable

from tasks.services.run import environment
from tasks.services.tracking.coordination import WandbCoordination, generation
from tasks.services.tracking.protocols import Coordination
from tasks.services.tracking.run_path import RunPath
from ups_models.config.schema import TrackingConfig
from ups_models.errors import UPSError

LOOK_AGAIN_S = (1.0, 2.0, 4.0)


def main(arguments: list[str]) -> int:
    """Record exit code and generation in the run that UPS_RUN names; 0 when W&B has them."""
    cfg = TrackingConfig()
    try:
        run = RunPath.parse(environment.get(environment.RUN), cfg)
        record(WandbCoordination(run, cfg), generation() or 0, int(arguments[0]))
    except UPSError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def record(run: Coordination, number: int, code: int, pause: Callable[[float], None] = time.sleep) -> None:
    """Record it, and look again: a controller that wrote its heartbeat at the same moment may have undone it."""
    for wait_s in LOOK_AGAIN_S:
        run.record_exit(number, code)
        pause(wait_s)
        progress = run.progress()
        if progress.outcome == (number, code) or progress.generation > number:
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
