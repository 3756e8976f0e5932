"""Which launches there are: those in the journals of a folder, and machines that the provider lists beside them."""

import logging
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.services.rental.fleet import LABEL, label_prefix
from tasks.services.rental.journal import Journal, Launch, Machine, PaceSeen
from tasks.services.rental.lock import Owner, controller_of
from tasks.services.rental.provider import Instance, Provider
from tasks.services.rental.providers import registry
from tasks.services.run.paths import JOURNAL
from tasks.services.tracking.coordination import WandbCoordination
from tasks.services.tracking.protocols import RemoteProgress, TrackingUnavailable
from tasks.services.tracking.run_path import RunPath, tracking_mode
from ups_models.config.schema import TrackingConfig
from ups_models.errors import BadInput
from ups_models.wording import shown

logger = logging.getLogger(__name__)

LABELLED = re.compile(re.escape(LABEL) + r"(?P<run>.+)-[0-9a-f]{8}-g(?P<generation>\d+)")
PLACES = (JOURNAL, f"*/{JOURNAL}", f"*/*/{JOURNAL}")
"""Where journals are looked for, below the folder that is named."""


@dataclass(frozen=True)
class Known:
    """A launch, and where it is known from: a journal here, or else only the labels of its machines."""

    launch: Launch
    journal: Path | None = None
    controller: Owner | None = None

    @property
    def is_open(self) -> bool:
        """Whether it goes on, or would if it were launched again."""
        return self.launch.closed_at is None

    @property
    def is_alive(self) -> bool:
        """Whether anything of it is at work: its controller here, or a machine that is not known to be gone."""
        return self.controller is not None or any(machine.destroyed_at is None for machine in self.launch.machines)

    @property
    def run_id(self) -> str:
        """The W&B run's id; cut to 40 characters where only a label names it."""
        return self.launch.run.rpartition("/")[2]

    @property
    def state(self) -> str:
        """In a word or two."""
        if self.journal is None:
            return "elsewhere"
        if self.launch.closed_at is not None:
            return "kept" if any(one.kept and one.destroyed_at is None for one in self.launch.machines) else "closed"
        return "running" if self.controller is not None else "interrupted"


@dataclass(frozen=True)
class Launches:
    """The launches in the journals of a folder, and the provider that is asked about what they do not know."""

    run_dir: Path
    provider: str = ""

    def here(self, *, required: bool = True) -> list[Known]:
        """The launches of the journals, oldest first; a damaged journal is logged, and costs itself.

        Raises BadInput where there is no other, and one is `required`.
        """
        found, errors = self._read()
        if errors and not found and required:
            raise errors[0]
        for error in errors:
            logger.warning("%s", error)
        return found

    def _read(self) -> tuple[list[Known], list[BadInput]]:
        """What the journals hold, and what is wrong with others."""
        found, errors = list[Known](), list[BadInput]()
        for path in self._journals():
            try:
                found += in_journal(path)
            except BadInput as error:
                errors.append(error)
        return sorted(found, key=lambda known: known.launch.started_at), errors

    def everywhere(self, instances: Sequence[Instance]) -> list[Known]:
        """The same, and what only the labels of these instances tell."""
        here = self.here()
        own = tuple(label_prefix(known.launch.run) for known in here)
        strangers = [one for one in instances if not one.label.startswith(own)]
        return [*here, *self._by_label(strangers)]

    def find(self, text: str | None, *, alive: bool = False) -> Known:
        """The launch of a run or of an instance; the newest here where none is named. Raises BadInput.

        One that is still at work, or costs, comes before those that do not where it is to be `alive`.
        """
        here = self.here()
        chosen = [known for known in here if text is None or _is_meant(known, text)]
        if chosen:
            return max(chosen, key=lambda known: (known.is_open, alive and known.is_alive, known.launch.started_at))
        listed = self._by_label(self.provider_of(None).list_instances(LABEL))
        chosen = [known for known in listed if text is None or _is_meant(known, text)]
        if len(chosen) == 1:
            return chosen[0]
        if text is not None:
            raise BadInput(f"{shown(text)}: no launch and no instance of ours; `ups launches` lists them")
        what = "several launches run elsewhere" if chosen else f"{self.run_dir}: nothing was launched from here"
        raise BadInput(f"{what}; name a run or an instance, or --run-dir; `ups launches` lists them")

    def note_destroyed(self, instance_id: str) -> None:
        """Note that a machine that was kept has been destroyed by its owner, in the journal that knows it."""
        for path in {known.journal for known in self._read()[0] if known.journal is not None}:
            journal = Journal(path)
            for machine in journal.kept_machines():
                if machine.id == instance_id:
                    journal.note("given back", machine.generation, id=instance_id)

    def machines(self, ids: Collection[str] = ()) -> list[tuple[Provider, Instance]]:
        """Instances of ours and who rents them out: of the journals that know these ids, all without ids.

        Where no journal does, whoever is named is asked; damaged ones are logged. Raises BadInput, ProviderRefused,
        UnknownOutcome.
        """
        here = self.here(required=False)
        own = [one for one in here if not ids or any(str(machine.id) in ids for machine in one.launch.machines)]
        newest = {self.provider_name(one): one for one in own}  # a provider is not asked for each launch that has ended
        asked = dict.fromkeys(
            (self.provider_name(one), self.folder_of(one))
            for one in own
            if one.is_alive or one is newest[self.provider_name(one)]
        )
        found: dict[tuple[str, str], tuple[Provider, Instance]] = {}
        for name, folder in asked or [(self.default, self.run_dir)]:
            provider = registry.provider_of(ids, name, folder)
            for one in provider.list_instances(LABEL):
                found.setdefault((one.id, one.label), (provider, one))
        return list(found.values())

    @property
    def default(self) -> str:
        """Who is asked where no journal says who."""
        return self.provider or registry.DEFAULT

    def again(self, known: Known) -> Known:
        """What has become of it. One of which only labels were known may have come to its end: no machines then."""
        if known.journal is not None:
            same = [one for one in in_journal(known.journal) if one.launch.started_at == known.launch.started_at]
            return same[-1] if same else known
        listed = self._by_label(self.provider_of(known).list_instances(LABEL))
        gone = Known(Launch(known.launch.run, known.launch.provider, 0.0, None, ()))
        return next((one for one in listed if one.run_id == known.run_id), gone)

    def provider_of(self, known: Known | None) -> Provider:
        """Who rents its machines out."""
        return registry.provider_for(self.provider_name(known), self.folder_of(known))

    def provider_name(self, known: Known | None) -> str:
        """What was named, else what the journal says, else Vast.ai."""
        return self.provider or (known.launch.provider if known is not None else "") or self.default

    def folder_of(self, known: Known | None) -> Path:
        """Where what belongs to it is kept: beside its journal, if that is here."""
        return known.journal.parent if known is not None and known.journal is not None else self.run_dir

    def _journals(self) -> list[Path]:
        return sorted(path for pattern in PLACES for path in self.run_dir.glob(pattern))

    def _by_label(self, instances: Sequence[Instance]) -> list[Known]:
        machines: dict[str, list[Machine]] = {}
        for one in sorted(instances, key=lambda one: one.id):
            named = LABELLED.fullmatch(one.label)
            run, number = (named["run"], int(named["generation"])) if named else (one.label, 0)
            machine = Machine(number, one.label, {}, one.usd_per_hour, time.time(), id=one.id)
            machines.setdefault(run, []).append(machine)
        name = self.provider or registry.DEFAULT
        return [Known(Launch(run, name, 0.0, None, tuple(found))) for run, found in machines.items()]


def paces_beside(journal: Path) -> tuple[PaceSeen, ...]:
    """What machines reached whose launches have their journals in folders beside; a damaged one is told."""
    found: list[PaceSeen] = []
    for path in sorted(journal.resolve().parent.parent.glob(f"*/{JOURNAL}")):
        if path != journal.resolve():
            try:
                found += Journal(path).paces
            except BadInput as error:
                logger.warning("%s", error)
    return tuple(found)


def in_journal(path: Path) -> list[Known]:
    """Every launch of one journal, oldest first. Raises BadInput."""
    launches = Journal(path).launches()
    controller = controller_of(path) if launches else None
    return [Known(one, path, controller if one.closed_at is None else None) for one in launches]


def machine_of(known: Known, text: str | None) -> Machine | None:
    """The machine that a text names by its instance, else the newest; None before the first."""
    named = [one for one in known.launch.machines if text is not None and str(one.id) == text]
    return named[0] if named else known.launch.newest


def progress_of(known: Known) -> RemoteProgress | None:
    """How far the run is; None where W&B cannot be asked."""
    cfg = TrackingConfig()
    if tracking_mode(cfg) != "online" or known.journal is None:
        return None
    try:
        return WandbCoordination(RunPath.parse(known.launch.run, cfg), cfg).progress()
    except TrackingUnavailable as error:
        logger.warning("%s", error)
        return None


def _is_meant(known: Known, text: str) -> bool:
    run_id = text.rstrip("/").rpartition("/")[2]
    same_run = known.run_id == (run_id if known.journal is not None else run_id[:40])
    return same_run or any(str(machine.id) == text for machine in known.launch.machines)
