"""`python -m harness.trust.cancels`: cancel and suspend runs in every phase; nothing may train on, and all resume."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows import ROOT
from harness.chaos.checks import outcome
from harness.chaos.prefect_stack import ControlRoom, TooSlow, prefect_stack
from harness.chaos.worker import _process_of
from tasks.services.run.lock import is_owned
from tasks.services.run.paths import RunDir

CONFIG = "configs/smoke.yaml"
SETTINGS = (
    "stages.operator.steps_per_epoch=200",
    "data.generate.n=1200",
    "checkpoint.save_every_steps=20",
    "runtime.device=cpu",
)
SAVE_ALWAYS = "checkpoint.save_every_steps=1"
RETRY_AFTER_S, VANISHED_AFTER_S, QUIET_S = 3, 40, 12
ENDS_WITHIN_S = 60
POLL_S = 0.02


@dataclass
class Case:
    """One run that a person stops, and what became of it."""

    phase: str
    route: str
    root: Path
    id: str = ""
    trouble: list[str] = field(default_factory=list)
    stopped_in_s: float = 0.0
    step: int = 0

    def __str__(self) -> str:
        verdict = "well " if not self.trouble else "WRONG"
        text = f"{verdict} {self.phase}, {self.route}: ended after {self.stopped_in_s:.1f} s at step {self.step}"
        return "; ".join([text, *self.trouble])


class Person:
    """Does in the UI, by the API or on the command line what a person does, and looks at what comes of it."""

    def __init__(self, room: ControlRoom, scratch: Path) -> None:
        self.room, self.scratch = room, scratch
        self.reference: dict[str, str] = {}

    def start(self, case: Case) -> None:
        """A run of the deployment, in the directory of the case."""
        case.id = self.room.run(self.request(case))

    def request(self, case: Case) -> dict[str, Any]:
        """What is asked for: in the phase `saving` every step is saved."""
        settings = [*SETTINGS, SAVE_ALWAYS] if case.phase == "saving" else [*SETTINGS]
        return {"config": CONFIG, "auto_resume": True, "run_dir": str(case.root), "set": settings}

    def state(self, run_id: str) -> dict[str, Any]:
        """The run's state."""
        found: dict[str, Any] = self.room.ask("GET", f"/flow_runs/{run_id}")["state"]
        return found

    def cancel(self, case: Case) -> None:
        """By the request that the UI makes, or by Prefect's command line."""
        if case.route == "UI":
            wish = {"type": "CANCELLING", "name": "Cancelling"}
            self.room.ask("POST", f"/flow_runs/{case.id}/set_state", json={"state": wish, "force": False})
            return
        command = [sys.executable, "-m", "prefect", "flow-run", "cancel", case.id]
        subprocess.run(command, env=self.room.environment, cwd=self.room.home, check=True, capture_output=True)

    def suspend(self, case: Case) -> None:
        """As the UI does."""
        details = {"pause_timeout": "2099-01-01T00:00:00Z", "pause_reschedule": True}
        wish = {"type": "PAUSED", "name": "Suspended", "state_details": details}
        answer = self.room.ask("POST", f"/flow_runs/{case.id}/set_state", json={"state": wish})
        if answer["status"] != "ACCEPT":
            case.trouble.append(f"the server does not suspend it: {answer}")

    def resume(self, case: Case) -> None:
        """As the UI does."""
        self.room.ask("POST", f"/flow_runs/{case.id}/resume", json={})

    def wait_for_end(self, case: Case, name: str) -> None:
        """Until no process works on the run and its state is the expected one, for good."""
        started = time.monotonic()
        while time.monotonic() - started < ENDS_WITHIN_S:
            if self.state(case.id)["name"] == name and not _process_of(case.id) and not is_owned(run_of(case.root)):
                break
            time.sleep(5 * POLL_S)
        case.stopped_in_s, case.step = time.monotonic() - started, steps_done(case.root)
        if (found := self.state(case.id)["name"]) != name or _process_of(case.id):
            case.trouble.append(f"is {found}, not {name}, after {case.stopped_in_s:.0f} s")

    def look_again(self, case: Case) -> None:
        """Long after: every attempt of the chain has ended as cancelled, and none came further."""
        self.room.wait_for(lambda: all_ended(self.room.states(case.root)), f"the chain of {case.root.name}")
        states = self.room.states(case.root)
        if any(name != "Cancelled" for name, _ in states):
            case.trouble.append(f"its chain: {states}")
        if steps_done(case.root) > case.step:
            case.trouble.append(f"trained on, to step {steps_done(case.root)}")

    def finish(self, case: Case) -> None:
        """Start it again, as a person does: it resumes, and ends with the weights of an undisturbed run."""
        again = self.room.run(self.request(case))
        self._require_same(case, again)

    def finish_suspended(self, case: Case) -> None:
        """Resume it: the same run goes on."""
        self.resume(case)
        self._require_same(case, case.id)

    def _require_same(self, case: Case, run_id: str) -> None:
        self.room.wait_for(lambda: self.state(run_id)["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"))
        if (found := self.state(run_id))["name"] != "Completed":
            case.trouble.append(f"started again it is {found['name']}: {found['message']}")
        elif weights(case.root) != self.undisturbed():
            case.trouble.append("started again it has OTHER WEIGHTS")

    def undisturbed(self) -> dict[str, str]:
        """The weights of a run that nobody disturbed."""
        if not self.reference:
            root = self.scratch / "undisturbed"
            root.mkdir()
            words = [word for setting in SETTINGS for word in ("--set", setting)]
            environment = {name: value for name, value in self.room.environment.items() if name != "PREFECT_API_URL"}
            environment["PREFECT_HOME"] = str(root / "prefect")
            command = [sys.executable, str(ROOT / "flows" / "pipeline.py"), "--config", CONFIG, *words]
            subprocess.run([*command, "--run-dir", str(root)], env=environment, cwd=root, check=True)
            self.reference = weights(root)
        return self.reference


def run_of(root: Path) -> RunDir:
    """The run of a case."""
    return RunDir.of(root, root / "checkpoints")


def status_of(root: Path) -> dict[str, Any]:
    """What the run's status holds; nothing before there is one."""
    path = run_of(root).status
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return found


def steps_done(root: Path) -> int:
    """Of all stages together."""
    return sum(int(record.get("step") or 0) for record in status_of(root).get("stages", {}).values())


def weights(root: Path) -> dict[str, str]:
    """Digests of all checkpoints."""
    return {name: digest for name, digest in outcome(run_of(root)).items() if name.endswith(".pt")}


def is_stage(root: Path, name: str, status: str) -> bool:
    """Whether a stage or an evaluation has this status."""
    found = status_of(root)
    record = found.get("stages", {}).get(name) or found.get("evaluations", {}).get(name) or {}
    return record.get("status") == status


def is_saving(root: Path) -> bool:
    """Whether a state is being written at this moment."""
    return any(run_of(root).checkpoints.glob("resume/*tmp~*"))


PHASES: dict[str, Callable[[Person, Case], bool]] = {
    "scheduled": lambda person, case: True,
    "pending": lambda person, case: person.state(case.id)["type"] != "SCHEDULED",
    "importing": lambda person, case: _process_of(case.id) is not None,
    "beginning": lambda person, case: person.state(case.id)["type"] == "RUNNING",
    "generating data": lambda person, case: any((case.root / "data").glob("*")),
    "in the first steps": lambda person, case: (case.root / "reports" / "metrics.jsonl").exists(),
    "in a step": lambda person, case: steps_done(case.root) >= 200,
    "saving": lambda person, case: is_saving(case.root),
    "in a later stage": lambda person, case: is_stage(case.root, "consistency_distill", "in_progress"),
    "evaluating": lambda person, case: is_stage(case.root, "small_eval", "in_progress"),
}
"""When each phase has come, looked at again and again."""
TRAINING = ("generating data", "in the first steps", "in a step", "saving", "in a later stage")
"""Phases in which a run is suspended."""


def wait_for_phase(person: Person, case: Case) -> None:
    """Until the phase has come. Raises TooSlow."""
    deadline = time.monotonic() + person.room.within_s
    while not PHASES[case.phase](person, case):
        if time.monotonic() > deadline:
            raise TooSlow(f"{case.phase}: did not come")
        time.sleep(0.002 if case.phase == "saving" else POLL_S)


def cancel_all(person: Person, count: int, few: tuple[str, ...] = ("in a step", "importing")) -> list[Case]:
    """Cancel one run after the other, then look whether any came further, then start each again.

    With fewer runs than there are phases, only in the `few`.
    """
    cases, phases = [], [*PHASES] if count >= len(PHASES) else [*few]
    for number in range(count):
        phase = phases[number % len(phases)]
        route = ("UI", "command line")[number // len(PHASES) % 2]
        case = Case(phase, route, person.scratch / f"cancel-{number}")
        cases.append(case)
        person.start(case)
        wait_for_phase(person, case)
        person.cancel(case)
        person.wait_for_end(case, "Cancelled")
    time.sleep(RETRY_AFTER_S + QUIET_S)
    for case in cases:
        person.look_again(case)
        person.finish(case)
        print(case, flush=True)
    return cases


def suspend_all(person: Person, count: int) -> list[Case]:
    """Suspend one run after the other, wait until a vanished one would be noticed, and resume each."""
    cases = []
    for number in range(count):
        case = Case(TRAINING[(number + 2) % len(TRAINING)], "suspended", person.scratch / f"suspend-{number}")
        cases.append(case)
        person.start(case)
        wait_for_phase(person, case)
        person.suspend(case)
        person.wait_for_end(case, "Suspended")
    time.sleep(VANISHED_AFTER_S + QUIET_S)
    for case in cases:
        if (states := person.room.states(case.root)) != [("Suspended", 1)]:
            case.trouble.append(f"its chain: {states}")
        if steps_done(case.root) > case.step:
            case.trouble.append(f"trained on, to step {steps_done(case.root)}")
        person.finish_suspended(case)
        print(case, flush=True)
    return cases


def all_ended(states: list[tuple[str, int]]) -> bool:
    """Whether no run waits or works."""
    return all(name not in ("Scheduled", "Late", "Pending", "Running", "Cancelling") for name, _ in states)


def main() -> int:
    """Run and print the counts."""
    parser = argparse.ArgumentParser(prog="harness.trust.cancels", description=__doc__)
    parser.add_argument("--cancels", type=int, default=20, help="how many runs are cancelled (20: ten phases, twice)")
    parser.add_argument("--suspends", type=int, default=10, help="how many are suspended and resumed")
    parser.add_argument("--without-watch", action="store_true", help="without `ups watch` beside the server")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cancels-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        with prefect_stack(home, within_s=420.0) as room:
            delays = ("--retry-after", str(RETRY_AFTER_S), "--vanished-after", str(VANISHED_AFTER_S))
            room.deploy(*delays).check_returncode()
            room.start_worker()
            if not given.without_watch:
                room.start_watch()
            person = Person(room, Path(folder))
            cancelled, suspended = cancel_all(person, given.cancels), suspend_all(person, given.suspends)
            if any(case.trouble for case in [*cancelled, *suspended]):
                print(room.log())
    for what, cases in {"cancels": cancelled, "suspends": suspended}.items():
        print(f"{what}: {sum(not case.trouble for case in cases)} of {len(cases)} as they should be")
    return 1 if any(case.trouble for case in [*cancelled, *suspended]) else 0


if __name__ == "__main__":
    sys.exit(main())
