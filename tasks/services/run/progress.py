"""What a person watching sees of long work: a live line on a terminal, log lines elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

LOG_EVERY_S = 10.0

Update = Callable[[int, str], None]
"""(how much is done, what to say beside it)."""


@contextmanager
def progress_of(what: str, total: int, done: int = 0) -> Iterator[Update]:
    """Show how far `what` is of `total`, with its rate and the time left, until the block ends."""
    if sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task(what, total=total, completed=done, note="", rate="")
            started = time.monotonic()

            def show(now: int, note: str) -> None:
                rate = (now - done) / max(time.monotonic() - started, 1e-9)
                bar.update(task, completed=now, note=note, rate=f"{rate:.1f}/s")

            yield show
    else:
        yield _LogLines(what, total, done)


class _LogLines:
    """One line every LOG_EVERY_S seconds."""

    def __init__(self, what: str, total: int, done: int) -> None:
        self.what, self.total, self.first = what, total, done
        self.started = self.logged = time.monotonic()

    def __call__(self, now: int, note: str) -> None:
        moment = time.monotonic()
        if moment - self.logged < LOG_EVERY_S and now < self.total:
            return
        self.logged = moment
        rate = (now - self.first) / max(moment - self.started, 1e-9)
        left = (self.total - now) / rate if rate > 0 else float("inf")
        logger.info("%s %d/%d  %s  %.1f/s  %.0f s left", self.what, now, self.total, note, rate, left)


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}  {task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    return Progress(*columns, console=Console(stderr=True), transient=False)
