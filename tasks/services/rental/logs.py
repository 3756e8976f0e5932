"""What the machines of a launch write: the end of it, or all that comes until the launch ends."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tasks.services.rental.journal import Machine
from tasks.services.rental.launches import Known, Launches
from tasks.services.rental.machine_log import fresh_lines, saved_log, whole_lines
from tasks.services.rental.provider import Provider, UnknownOutcome
from ups_models.errors import BadInput
from ups_models.reading import read_bytes

logger = logging.getLogger(__name__)

FOLLOW_S = 5.0
"""Vast.ai takes one request for logs a second; a log that grows is looked at this often."""


@dataclass
class MachineLogs:
    """The logs of one launch, from its provider or, where a machine is gone, as they were saved beside the journal."""

    launches: Launches
    known: Known
    provider: Provider

    def text_of(self, machine: Machine) -> str:
        """The last lines of a machine; empty where there are none, or none are left."""
        text = self.provider.logs(machine.id) if machine.id is not None and machine.destroyed_at is None else ""
        if text or self.known.journal is None:
            return text
        path = saved_log(self.known.journal, machine.generation)
        return read_bytes(path, follow_links=False).decode("utf-8", "replace") if path.is_file() else ""

    def require_text(self, machine: Machine | None) -> str:
        """The last lines of a machine. Raises BadInput that says why there are none."""
        run = self.known.launch.run
        if machine is None:
            raise BadInput(f"run {run}: no machine was rented for it yet; `ups launches` shows where it stands")
        text = self.text_of(machine)
        if text:
            return text
        if machine.destroyed_at is not None:
            raise BadInput(
                f"machine {machine.generation} of run {run}: is gone and left no log; what it logged before is in W&B"
            )
        raise BadInput(f"machine {machine.generation} of run {run}: has written nothing yet; -f waits for it")

    def follow(
        self, only: Machine | None, *, every_s: float = FOLLOW_S, pause: Callable[[float], None] = time.sleep
    ) -> Iterator[str]:
        """Line by line, of every machine that comes, or of `only` one, until the launch or that machine ends."""
        machine, printed = only, list[str]()
        while True:
            now = self._look_again()
            newest = self._same(only, now) if only is not None else now.launch.newest
            if newest is not None and machine is not None and newest.generation != machine.generation:
                yield from fresh_lines(printed, self._read(self._same(machine, now) or machine).splitlines())
                printed = []
            if newest is not None and (machine is None or newest.generation != machine.generation):
                yield f"--- machine {newest.generation} (instance {newest.id})"
            machine = newest or machine
            has_ended = not now.is_open or not now.is_alive or (only is not None and _is_gone(newest))
            if machine is not None:
                text = self._read(machine)
                lines = text.splitlines() if has_ended else whole_lines(text)
                yield from fresh_lines(printed, lines)
                printed = lines or printed
            if has_ended:
                return
            pause(every_s)

    def _read(self, machine: Machine) -> str:
        try:
            return self.text_of(machine)
        except UnknownOutcome as error:
            logger.warning("%s; looking again", error)
            return ""

    def _look_again(self) -> Known:
        try:
            self.known = self.launches.again(self.known)
        except UnknownOutcome as error:
            logger.warning("%s; looking again", error)
        return self.known

    def _same(self, machine: Machine, known: Known) -> Machine | None:
        return next((one for one in known.launch.machines if one.generation == machine.generation), None)


def _is_gone(machine: Machine | None) -> bool:
    return machine is None or machine.destroyed_at is not None
