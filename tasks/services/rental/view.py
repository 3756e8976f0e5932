"""What a person sees of a launch while it runs: a panel on a terminal, log lines elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tasks.services.rental.controller import Show
from ups_models.config.schema import PipelineConfig

logger = logging.getLogger(__name__)

LOG_EVERY_S = 30.0


@contextmanager
def view(cfg: PipelineConfig, run: str, max_usd: float) -> Iterator[Show]:
    """What the controller shows its state to, until the block ends."""
    if not sys.stderr.isatty():
        yield LogView(cfg)
        return
    with Live(console=Console(stderr=True), refresh_per_second=2) as live:
        yield Dashboard(live, cfg, run, max_usd)


def progress(cfg: PipelineConfig, facts: Mapping[str, Any]) -> str:
    """Stage and step, such as `operator step 120 of 3000`."""
    stage = facts["stage"]
    return f"{stage} step {facts['step']} of {cfg.stages.of(stage).total_steps}" if stage else "not yet training"


class LogView:
    """A line for what changes, and one every half minute while nothing does."""

    def __init__(self, cfg: PipelineConfig) -> None:
        self.cfg = cfg
        self.logged: tuple[Any, ...] = ()
        self.logged_at = 0.0

    def __call__(self, state: str, facts: Mapping[str, Any]) -> None:
        """Log it, unless it was logged just now."""
        if "instance" not in facts:
            logger.info("%s %s", state, " ".join(f"{key}={value}" for key, value in facts.items()))
            return
        now = (state, facts["instance"], facts["instance_state"], facts["stage"])
        if now == self.logged and time.monotonic() - self.logged_at < LOG_EVERY_S:
            return
        self.logged, self.logged_at = now, time.monotonic()
        logger.info(
            "%s instance %s (%s), machine %d: %s; %.3f USD/h, %.2f USD spent%s",
            state,
            facts["instance"],
            facts["instance_state"],
            facts["generation"],
            progress(self.cfg, facts),
            facts["usd_per_hour"],
            facts["spent_usd"],
            f"; {facts['log'][-1]}" if facts["log"] else "",
        )


class Dashboard:
    """One panel, redrawn: where training is, what it costs, and what the machine wrote last."""

    def __init__(self, live: Live, cfg: PipelineConfig, run: str, max_usd: float) -> None:
        self.live, self.cfg, self.run, self.max_usd = live, cfg, run, max_usd
        self.started = time.monotonic()

    def __call__(self, state: str, facts: Mapping[str, Any]) -> None:
        """Draw it."""
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        rows = {"state": f"{state}, {minutes}:{seconds:02d} since the launch"}
        lines: list[str] = []
        if "instance" in facts:
            rows["machine"] = f"{facts['instance']} ({facts['instance_state']}), number {facts['generation']}"
            rows["stage"] = progress(self.cfg, facts)
            rows["cost"] = f"{facts['usd_per_hour']:.3f} USD/h, {facts['spent_usd']:.2f} of {self.max_usd:g} USD spent"
            lines = facts["log"]
        else:
            rows |= {key: str(value) for key, value in facts.items()}
        table = Table.grid(padding=(0, 2))
        for name, text in rows.items():
            table.add_row(Text(name, style="bold"), Text(text))
        log = Text("\n".join(lines), style="dim", overflow="ellipsis", no_wrap=True)
        self.live.update(Panel(Group(table, log), title=self.run, title_align="left"))
