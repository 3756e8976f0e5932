"""What a job on a rented machine is doing, announced in its log for the controller that watches it from elsewhere."""

import logging
from typing import Literal, get_args

from tasks.services.run import environment

logger = logging.getLogger(__name__)

Phase = Literal["installing", "downloading", "data", "training", "evaluation"]
"""data: reading or solving; evaluation: with the report. onstart.sh announces the first two as well."""
PHASES: tuple[Phase, ...] = get_args(Phase)
PREFIX = "phase "


def announce(phase: Phase) -> None:
    """Write the phase that begins into the log; on a machine that nobody rents nobody asks for it."""
    if environment.is_set(environment.GENERATION):
        logger.info("%s%s", PREFIX, phase)
