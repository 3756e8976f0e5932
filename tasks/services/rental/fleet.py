"""The machines of one run at a provider: rented once, found again by their label, destroyed and confirmed gone."""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from tasks.services.rental.journal import Journal, Machine
from tasks.services.rental.limits import Limits
from tasks.services.rental.provider import (
    Instance,
    KeyRefused,
    MachineSpec,
    Offer,
    OfferGone,
    Provider,
    ProviderError,
    ProviderRefused,
    UnknownOutcome,
)
from tasks.services.run.retry import retrying
from ups_models.errors import UPSError

logger = logging.getLogger(__name__)

LABEL = "ups-"
"""How the label of every machine of ours begins."""
REFUSED_AGAIN_AFTER_S = (10.0, 20.0, 30.0, 60.0, 60.0, 120.0)
"""A controller that comes back to machines does not leave them for one refusal of the key."""
LIST_TRIES = 3
"""One empty list proves nothing: they have been wrong."""


def label_prefix(run: str) -> str:
    """What the labels of a run's machines have in common: its id, cut, and a digest of its path, entity and project."""
    run_id = run.rpartition("/")[2]
    return f"{LABEL}{run_id[:40]}-{hashlib.sha256(run.encode()).hexdigest()[:8]}-g"


def label_of(run: str, generation: int) -> str:
    """Names a machine so that it can be found again: by its run, and its generation."""
    return f"{label_prefix(run)}{generation}"


def name_kept(provider: Provider, name: str, journal: Journal) -> None:
    """Name the machines of earlier launches that were kept as asked, for they cost; one that is gone is noted.

    Only the provider of its launch, of this name, knows what has become of a machine.
    """
    for machine in journal.kept_machines():
        is_known = any(machine in launch.machines for launch in journal.finished if launch.provider in ("", name))
        try:
            is_gone = is_known and (machine.id is None or provider.describe(machine.id) is None)
        except UnknownOutcome:
            is_gone = False
        if is_gone:
            journal.note("given back", machine.generation, id=machine.id)
            continue
        logger.warning(
            "instance %s of an earlier launch was kept as asked and is left alone: it costs %.3f USD/h until "
            "`ups destroy %s`",
            machine.id,
            machine.usd_per_hour,
            machine.id,
        )


@dataclass
class Fleet:
    """What the journal and the label know of a run's machines. All that is rented is destroyed through it."""

    provider: Provider
    journal: Journal
    run: str
    """The W&B run's full path."""
    limits: Limits
    pause: Callable[[float], None] = time.sleep

    def adopt(self, *, fence: int | None = None) -> str | None:
        """After a restart: the newest machine, if it is of use; all others are destroyed. Raises ProviderError.

        With the generation at the run's `fence`, a machine that only the label knows is gone on with where it may
        write: another controller rented it.
        """
        pauses_s = REFUSED_AGAIN_AFTER_S if self.journal.not_destroyed() else ()
        found = retrying(pauses_s, KeyRefused, pause=self.pause)(self._found)
        newest = self.journal.machines.get(self.journal.generation)
        if newest is None and fence is not None:
            newest = self._note_unknown(found, fence)
        label = newest.label if newest is not None and newest.destroyed_at is None else None
        adopted = None
        for instance in found:
            if instance.label == label and adopted is None and instance.state in ("running", "booting"):
                if newest is not None and newest.id is None:
                    self.journal.note("rented", id=instance.id)
                adopted = instance.id
                logger.info("going on with instance %s, rented before", instance.id)
            else:
                self._destroy_found(instance)
        for machine in self.journal.not_destroyed():
            if machine.id != adopted:
                if machine.id is not None:
                    self.provider.destroy(machine.id)
                self.journal.note("given back", machine.generation)
        return adopted

    def _note_unknown(self, found: Sequence[Instance], fence: int) -> Machine | None:
        """Write the newest machine that is of use into the journal, at its price, from now on."""
        usable = [one for one in found if one.state in ("running", "booting")]
        usable = [one for one in usable if self._generation_of(one) >= fence]
        if not usable:
            return None
        newest = max(usable, key=self._generation_of)
        generation = self._generation_of(newest)
        offer = {"id": "", "machine_id": newest.machine_id}
        self.journal.note("renting", generation, label=newest.label, offer=offer, usd_per_hour=newest.usd_per_hour)
        self.journal.note("rented", generation, id=newest.id)
        return self.journal.machines[generation]

    def rent(
        self, offer: Offer, spec: MachineSpec, generation: int, onstart: str, environment: Mapping[str, str]
    ) -> str | None:
        """Order once; after a lost reply the label says whether there is a machine. None: there is none."""
        label, price = label_of(self.run, generation), offer.usd_per_hour
        self.journal.note(
            "renting", generation, label=label, offer=asdict(offer), usd_per_hour=price, disk_gb=spec.disk_gb
        )
        try:
            instance_id = self._order(offer, spec, label, onstart, environment)
        except UnknownOutcome:
            raise
        except (ProviderRefused, ProviderError):
            self.journal.note("given back")  # it was not rented, and must not be paid for
            raise
        if instance_id is None:
            self.journal.note("given back")
            return None
        self.journal.note("rented", id=instance_id)
        return instance_id

    def destroy(self, instance_id: str, generation: int | None = None) -> None:
        """Destroy a machine, the newest one where no generation is given. Raises ProviderError if it stays."""
        self.provider.destroy(instance_id)
        self.journal.note("given back", generation, id=instance_id)

    def destroy_all(self) -> None:
        """Leave no machine of the run: neither of the journal, nor with its label. Raises ProviderError.

        One that stays does not keep the others from being destroyed.
        """
        errors: list[str] = []
        for machine in self.journal.not_destroyed():
            if machine.id is not None:
                self._try_to_destroy(machine.id, machine.generation, errors)
        found: list[Instance] = []
        try:
            found = self._found()
        except (UnknownOutcome, ProviderRefused) as error:
            if not errors:
                raise
            errors.append(str(error))  # what stays is named anyway
        else:
            self._forget_orders(found)
        for instance in found:
            self._try_to_destroy(instance.id, self._generation_of(instance), errors)
        if errors:
            raise ProviderError("; ".join(dict.fromkeys(errors)))

    def _forget_orders(self, found: Sequence[Instance]) -> None:
        """Orders whose answer was lost, and of which the list, asked again and again, shows no machine."""
        labels = {instance.label for instance in found}
        for machine in self.journal.not_destroyed():
            if machine.id is None and machine.label not in labels:
                self.journal.note("given back", machine.generation)

    def _destroy_found(self, instance: Instance) -> None:
        generation = self._generation_of(instance)
        if generation not in self.journal.machines:
            logger.warning("instance %s of the run is not in %s: destroying it", instance.id, self.journal.path)
        self.destroy(instance.id, generation)

    def _try_to_destroy(self, instance_id: str, generation: int, errors: list[str]) -> None:
        try:
            self.destroy(instance_id, generation)
        except (UPSError, OSError) as error:  # it stays, or that it is gone cannot be noted
            errors.append(str(error))

    def _order(
        self, offer: Offer, spec: MachineSpec, label: str, onstart: str, environment: Mapping[str, str]
    ) -> str | None:
        try:
            return self.provider.rent(offer, spec, label=label, onstart=onstart, env=environment)
        except OfferGone as error:
            logger.info("%s; looking for another", error)
            self.journal.note("excluded")
        except UnknownOutcome as error:
            logger.warning("%s: looking whether it was rented anyway", error)
        return self._resolve_lost_reply(label)

    def _resolve_lost_reply(self, label: str) -> str | None:
        """The machine of this label, if there is one of use; any more are destroyed.

        Raises UnknownOutcome where the provider refuses to list, however often it is asked.
        """
        try:
            found = retrying(REFUSED_AGAIN_AFTER_S, KeyRefused, pause=self.pause)(
                self._list, label, LIST_TRIES, exact=True
            )
        except ProviderRefused as error:
            raise UnknownOutcome(f"{error}: whether a machine was rented is not known") from error
        for surplus in found[1:]:
            self.provider.destroy(surplus.id)
        if found and found[0].state in ("failed", "away"):
            self.provider.destroy(found[0].id)
            return None
        return found[0].id if found else None

    def _found(self) -> list[Instance]:
        """All machines with the run's label; listed repeatedly while it is not known whether an order succeeded."""
        is_unknown = any(machine.id is None for machine in self.journal.not_destroyed())
        kept = {_number(machine.id or "") for machine in self.journal.kept_machines()}
        found = self._list(label_prefix(self.run), LIST_TRIES if is_unknown else 1)
        return [one for one in found if _number(one.id) not in kept]

    def _list(self, prefix: str, tries: int, *, exact: bool = False) -> list[Instance]:
        """What the label finds; an empty list is asked for again."""
        listed = retrying(self.limits.backoff_s, UnknownOutcome, pause=self.pause, warn=False)
        while True:
            found = [one for one in listed(self.provider.list_instances, prefix) if not exact or one.label == prefix]
            tries -= 1
            if found or not tries:
                return found
            self.pause(self.limits.poll_s)

    def _generation_of(self, instance: Instance) -> int:
        text = instance.label.removeprefix(label_prefix(self.run))
        return int(text) if text.isdecimal() else 0


def _number(instance_id: str) -> str:
    """An instance's id without the name of its provider, which it has where several are asked."""
    return instance_id.rpartition(":")[2]
