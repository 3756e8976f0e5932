"""How many CPU threads make a network faster here: on a busy machine two can be twenty times slower than one."""

import time
from collections.abc import Callable

import torch

ROUNDS, REPEATS = 4, 6
ROWS, WIDTH = 2048, 64
"""Of a batch's tokens and a network's channels: about those of the smallest shipped config."""
GAIN = 0.9
"""More threads are worth it only where they need this part of the time of one, or less."""

Measure = Callable[[int], float]


def fastest_threads(most: int, measure: Measure | None = None) -> int:
    """One, or `most`: the larger number only where it is clearly faster now.

    Both do the same piece of work in turns, so that both meet the same neighbours; all rounds count, since threads
    that wait for each other on a busy machine are slow in bursts. `measure` gives the seconds of a number of threads.
    """
    if most <= 1:
        return 1
    measure = measure or seconds_of_work
    for n_threads in (1, most):
        measure(n_threads)  # threads are started, memory is had
    seconds = {1: 0.0, most: 0.0}
    for _ in range(ROUNDS):
        for n_threads in seconds:
            seconds[n_threads] += measure(n_threads)
    return most if seconds[most] <= GAIN * seconds[1] else 1


def seconds_of_work(n_threads: int) -> float:
    """Wall time of a few forward and backward passes of a small network; the number of threads stays as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        x = torch.linspace(-1, 1, ROWS * WIDTH).view(ROWS, WIDTH)
        weight = torch.linspace(-0.1, 0.1, WIDTH * WIDTH).view(WIDTH, WIDTH).requires_grad_()
        began = time.perf_counter()
        for _ in range(REPEATS):
            hidden = torch.nn.functional.gelu(x @ weight)
            (hidden @ weight.T).square().mean().backward()
        return time.perf_counter() - began
    finally:
        torch.set_num_threads(before)
