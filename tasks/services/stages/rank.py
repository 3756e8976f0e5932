"""One of the processes that train a stage together: `python -m tasks.services.stages.rank FOLDER`, started by torchrun.

It trains, and reports to the process that owns the run; the first rank alone writes the saved state. An end
that was decided, such as a stop or a loss that is not finite, is reported and no failure: after a failure
torchrun starts the ranks again.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from tasks.services.run import environment
from tasks.services.stages.channel import DONE, FAILED, SAVED, STARTED, STEPPED, STOPPED, Channel
from tasks.services.stages.inputs import read_stage_inputs
from tasks.services.stages.torchrun import (
    device_of_rank,
    has_own_gpu,
    identity_in_words,
    store_of_torchrun,
    train_together,
)
from ups_models.children import end_with_parent
from ups_models.errors import Preempted, UPSError
from ups_models.training.joining import joined
from ups_models.training.loop import Hooks, Progress
from ups_models.training.parallel import ProcessLost
from ups_models.training.state import save_state
from ups_models.wording import first_line

ORPHANED = 1
"""Process that adopts those whose parent has ended."""


def main() -> None:
    """Train the stage of the folder, and end without an error wherever the end was decided."""
    end_with_parent()
    if os.getppid() == ORPHANED:
        sys.exit("its parent has ended")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    channel, (rank, world_size) = Channel(Path(sys.argv[1])), environment.world()
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: asked.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner hears it too, and asks
    try:
        train(channel, rank, world_size, lambda: bool(asked) or (rank == 0 and channel.is_asked_to_stop()))
    except Preempted as error:
        channel.send(rank, STOPPED, message=str(error))
    except ProcessLost:  # torchrun starts all again
        raise
    except UPSError as error:
        channel.send(rank, FAILED, kind=type(error).__name__, message=str(error))
    except Exception as error:  # the owner ends torchrun
        channel.send(rank, FAILED, kind=UPSError.__name__, message=f"{type(error).__name__}: {first_line(error)}")
        raise


def train(channel: Channel, rank: int, world_size: int, should_stop: Callable[[], bool]) -> None:
    """The stage, to its end. Raises what `fit` raises."""
    name, cfg, run, threads = channel.job()
    torch.set_num_threads(threads)
    inputs = read_stage_inputs(name, cfg, run, device_of_rank(cfg))
    meeting, on_gpu = store_of_torchrun(world_size), has_own_gpu(inputs.device)
    with joined(rank, world_size, meeting, identity_in_words(inputs), on_gpu=on_gpu) as world:
        state = train_together(name, cfg, run, inputs, hooks_of(channel, rank, should_stop), world)
        if rank == 0:
            save_state(run.resume(name), state, inputs.lineage, with_previous=cfg.checkpoint.keep_previous)
    channel.send(rank, DONE)


def hooks_of(channel: Channel, rank: int, should_stop: Callable[[], bool]) -> Hooks:
    """The first rank reports what happens; all are asked whether to stop."""
    if rank != 0:
        return Hooks(should_stop=should_stop)

    def send(event: str, progress: Progress) -> None:
        channel.send(rank, event, progress=asdict(progress))

    return Hooks(
        on_start=lambda step: channel.send(rank, STARTED, step=step),
        on_step=partial(send, STEPPED),
        on_save=partial(send, SAVED),
        should_stop=should_stop,
    )


if __name__ == "__main__":
    main()
