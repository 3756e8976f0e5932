"""`python -m harness.trust.dying_server POINT PID DIR`: `ups train`, whose Prefect server is killed at a point."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from flows.cli import main as cli
from flows.cli import runner
from flows.prefect import server as temporary
from harness.chaos.workload import BRIEF
from harness.mutated import switch_off
from ups_models.stages.spec import SPECS

DIED = "the server died"


@dataclass(frozen=True)
class Point:
    """Before or after which call of which function, where its first argument is for this stage."""

    place: str
    after: bool = False
    stage: str = ""

    def arm(self, act: Callable[[], None]) -> None:
        """Have it happen there."""
        path, _, name = self.place.rpartition(".")
        module, _, owner = path.partition(":")
        holder: Any = import_module(module)
        holder = getattr(holder, owner) if owner else holder
        setattr(holder, name, self._acting(getattr(holder, name), act))

    def _acting(self, work: Callable[..., Any], act: Callable[[], None]) -> Callable[..., Any]:
        def acting(*arguments: Any, **named: Any) -> Any:
            if not self.after and (not self.stage or arguments[0].stage == self.stage):
                act()
            found = work(*arguments, **named)
            if self.after:
                act()
            return found

        return acting


POINTS = {
    "before the flow run is made": None,
    "as the flow begins": Point("flows.pipeline.parse"),
    **{f"in {stage}": Point("tasks.train.run_stage", stage=stage) for stage in SPECS},
    "between two stages": Point("flows.pipeline:PrefectSteps.train", after=True),
    "in small_eval": Point("tasks.evaluate.evaluate_if_needed"),
    "in the report": Point("tasks.report.report_if_changed"),
    "at the end of the flow": Point("flows.pipeline.run_job", after=True),
}


def disturbed(point: str, pid: int, root: Path) -> int:
    """The exit code of `ups train` under a server of this process id; 0: a temporary one."""
    servers = [pid] if pid else []
    start, answered = temporary._start, runner._answered

    def noted(*arguments: Any) -> Any:
        child = start(*arguments)
        servers.append(child.pid)
        return child

    def die() -> None:
        while servers:
            os.kill(servers.pop(), signal.SIGKILL)
            time.sleep(0.5)
            print(DIED, file=sys.stderr, flush=True)

    def armed(load: Callable[[], Any]) -> Any:
        flow = answered(load)
        switch_off()
        place = POINTS[point]
        if place is None:
            die()
        else:
            place.arm(die)
        return flow

    _replace(temporary, "_start", noted)
    _replace(runner, "_answered", armed)
    request = BRIEF.request(root)
    settings = [word for setting in request.set for word in ("--set", setting)]
    return cli.main(["train", "--config", str(request.config), *settings, "--run-dir", str(root), "--auto-resume"])


def _replace(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)


if __name__ == "__main__":
    sys.exit(disturbed(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
