"""CPU threads of a run: as its config says, else as many as it has had so far, else what is fastest when it begins."""

import logging
import os

import torch

from tasks.services.run import environment
from tasks.services.run.status import Status, StatusStore
from ups_models.config.schema import PipelineConfig
from ups_models.training.threads import fastest_threads

logger = logging.getLogger(__name__)

SETTING = "OMP_NUM_THREADS"


def settle_threads(cfg: PipelineConfig, store: StatusStore, device: torch.device, n_processes: int = 1) -> None:
    """Give PyTorch the run's number of threads, in each process, and keep it: the bits of what is trained depend on it.

    A run on a GPU needs none. One that was begun before the number was kept has PyTorch's own.
    """
    if device.type != "cpu":
        return
    status = store.read()
    n_threads = cfg.runtime.threads or _kept(status) or _first(status, n_processes)
    if n_processes > 1 and n_threads * n_processes > cores():
        logger.warning(
            "%d processes of %d CPU threads each on %d cores are slow; fewer processes give the same bits",
            n_processes,
            n_threads,
            cores(),
        )
    if status.threads not in (None, n_threads):
        logger.warning(
            "the run has had %d CPU threads so far, and has %d from now on: it goes on, but not to the same bits",
            status.threads,
            n_threads,
        )
    torch.set_num_threads(n_threads)
    if status.threads != n_threads:
        store.record_threads(n_threads)


def _kept(status: Status) -> int | None:
    """What the run has had so far, where this machine has as many cores."""
    kept = status.threads
    if kept is not None and kept > cores():
        logger.warning("the run has had %d CPU threads so far, but this machine has %d cores", kept, cores())
        return None
    return kept


def _first(status: Status, n_processes: int) -> int:
    """Of a run that begins: measured, unless the environment says how many."""
    default = max(1, torch.get_num_threads() // n_processes)
    has_begun = status.threads is None and any(record.started_at for record in status.stages.values())
    if has_begun or environment.is_set(SETTING) or default == 1:
        return default
    n_threads = fastest_threads(default)
    if n_threads < default:
        logger.info("training on 1 CPU thread: %d are no faster here now; --threads %d insists", default, default)
    return n_threads


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))
