"""Evaluating with several processes: each answers for some rows, to the same digits as one process alone."""

import logging
import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook

from tasks.services.run import environment
from tasks.services.run.paths import RunDir
from tasks.services.run.uninterrupted import leave_if_stopped
from tasks.services.stages.channel import Channel
from tasks.services.stages.evaluated import data_of, models_of
from tasks.services.stages.torchrun import device_of_rank
from ups_models.children import quiet_child
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.errors import Preempted
from ups_models.evaluation.forecasts import Answer, Ask, Forecasts, Question, Rows

logger = logging.getLogger(__name__)

LOOK_S = 0.2
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Order:
    """What every process evaluates: the folder with the job, the settings, and the stages that may be used."""

    folder: Path
    settings: EvalConfig
    stages: tuple[str, ...]


@contextmanager
def evaluators(
    name: str, cfg: PipelineConfig, settings: EvalConfig, run: RunDir, stages: Sequence[str], n_processes: int
) -> Iterator[Ask | None]:
    """Within the block, so many processes answer, this one too; None for one. The others end with it, and with us."""
    if n_processes < 2:
        yield None
        return
    channel = Channel(Path(mkdtemp(prefix="ups-evaluators-")))
    channel.put_job(name, cfg, run, torch.get_num_threads())
    context = multiprocessing.get_context("spawn")
    begin = (os.getpid(), context.Value("i", 1))
    pool = ProcessPoolExecutor(n_processes - 1, mp_context=context, initializer=_begin, initargs=begin)
    try:
        yield partial(_shared, pool, n_processes - 1, Order(channel.folder, settings, tuple(stages)), name)
    finally:
        channel.ask_to_stop()
        pool.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(channel.folder, ignore_errors=True)


def _shared(
    pool: ProcessPoolExecutor,
    others: int,
    order: Order,
    name: str,
    answer: Answer,
    question: Question,
    parts: Sequence[Rows],
) -> Iterator[Tensor]:
    """The answers of the pool and of this process, which gives the rest where one of the pool's is killed.

    The pool is asked from the first part on, each process for two at a time; this one takes the last.
    """
    waiting, is_alone = deque(range(len(parts))), False
    asked: dict[int, Future[Array]] = {}
    own: dict[int, Tensor] = {}
    for number, rows in enumerate(parts):
        try:
            while not is_alone and number not in own and not (number in asked and asked[number].done()):
                while waiting and sum(not one.done() for one in asked.values()) < 2 * others:
                    asked[waiting[0]] = pool.submit(_answer, order, question, parts[waiting[0]])
                    waiting.popleft()
                if waiting:
                    last = waiting.pop()
                    own[last] = answer(question, parts[last])
                else:
                    wait([asked[number]], timeout=LOOK_S)
                leave_if_stopped(name)
            if number not in own:
                own[number] = answer(question, rows) if is_alone else torch.from_numpy(asked[number].result())
        except BrokenProcessPool:
            logger.warning("%s: an evaluating process was killed; this one goes on alone, to the same digits", name)
            is_alone = True
            own[number] = answer(question, rows)
        yield own.pop(number)


def _begin(parent: int, started: Any) -> None:
    """A process of the pool: the first has the second GPU, for the first is that of its parent."""
    quiet_child(parent)
    with started.get_lock():
        environment.put("LOCAL_RANK", str(started.value))
        started.value += 1


def _answer(order: Order, question: Question, rows: Rows) -> Array:
    """In a process of the pool."""
    found: Array = _forecasts(order).answer(question, rows).cpu().numpy()
    return found


@cache
def _forecasts(order: Order) -> Forecasts:
    channel = Channel(order.folder)
    _, cfg, run, threads = channel.job()
    torch.set_num_threads(threads)
    register_module_forward_pre_hook(lambda _module, _inputs: _leave_if_asked(channel))
    device = device_of_rank(cfg)
    models = models_of(cfg, run, dict.fromkeys(order.stages), device)
    return Forecasts(cfg, order.settings, models, data_of(cfg, order.settings, run, models), device)


def _leave_if_asked(channel: Channel) -> None:
    if channel.is_asked_to_stop():
        raise Preempted("the evaluation was asked to stop")
