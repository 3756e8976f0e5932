"""One's own machines: a host is an offer, a run on it an instance, and ssh is asked about both."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

from tasks.services.rental.provider import (
    Instance,
    MachineSpec,
    NoOffer,
    NoSuchInstance,
    Offer,
    OfferGone,
    ProviderError,
    SshAddress,
    UnknownOutcome,
)
from tasks.services.rental.providers.ssh.facts import CPU, Facts, instance_id, instances_in
from tasks.services.rental.providers.ssh.hosts import NAME_THEM, Host, named_hosts, parse_all
from tasks.services.rental.providers.ssh.orders import Orders
from tasks.services.rental.providers.ssh.shell import NoAnswer, Shell, SystemShell, login_command, run_script
from tasks.services.run.retry import retrying
from ups_models.errors import BadInput

logger = logging.getLogger(__name__)

SILENT_S = 300.0
"""A host that did not answer for so long is taken for off: its run is given up, for another host's."""
PROBE_WITHIN_S = 45.0
DESTROY_AGAIN_AFTER_S = (2.0, 5.0, 10.0, 20.0)
AT_ONCE = 16

T = TypeVar("T")


class SshProvider:
    """Machines that the user logs in to anyway; they cost what the user says they cost."""

    supports_bids = False

    def __init__(
        self,
        run_dir: Path,
        shell: Shell,
        *,
        pause: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
        silent_s: float = SILENT_S,
    ) -> None:
        self.shell, self.pause, self.now, self.silent_s = shell, pause, now, silent_s
        self.orders = Orders(run_dir)
        self.offered = named_hosts()
        self.silent_since: dict[str, float] = {}
        self.facts: dict[str, Facts] = {}
        self.told: dict[str, str] = {}

    @classmethod
    def for_run(cls, run_dir: Path) -> Self:
        """The factory of the registry; a run directory remembers which hosts were used from it."""
        return cls(run_dir, SystemShell())

    def use_hosts(self, hosts: str) -> None:
        """Offer these machines, and no others. Raises BadInput, also where none is named anywhere."""
        self.offered = parse_all([hosts]) or self.offered
        if not self.offered:
            raise BadInput(f"--provider ssh: no host is named; {NAME_THEM}")

    def search(self, spec: MachineSpec) -> list[Offer]:
        """The hosts that answer, fit and are free, cheapest first, then as they were named; all are asked at once."""
        if not self.offered:
            raise NoOffer(f"--provider ssh: no host is named; {NAME_THEM}")
        hosts = list(self.offered.values())
        faults = dict(zip(hosts, _at_once(lambda host: self._fault(host, spec), hosts), strict=True))
        fitting = [host for host in hosts if not faults[host]]
        if not fitting:
            raise NoOffer("; ".join(f"{host.name}: {fault}" for host, fault in faults.items()))
        for host, fault in faults.items():
            if fault and self.told.get(host.name) != fault:
                logger.warning("%s: %s; left out", host.name, fault)
                self.told[host.name] = fault
        return [self._offer(host, spec) for host in sorted(fitting, key=lambda host: host.usd_per_hour)]

    def _fault(self, host: Host, spec: MachineSpec) -> str:
        """Why nothing can be started there; empty where it can."""
        if host.usd_per_hour > spec.max_usd_per_hour:
            return f"costs {host.usd_per_hour:g} USD/h; raise --max-price"
        try:
            self._end_what_was_left(host)
            self.facts[host.name] = Facts.parse(self._ask(host, "probe", within_s=PROBE_WITHIN_S))
        except NoAnswer as error:
            return error.reason
        except ProviderError as error:
            return str(error).removeprefix(f"{host.name}: ")
        return self.facts[host.name].fault(spec)

    def _offer(self, host: Host, spec: MachineSpec) -> Offer:
        facts = self.facts[host.name]
        free = facts.free(spec)
        gpu, count = (free[0].name, spec.num_gpus) if spec.needs_gpu else (CPU, 0)
        return Offer(host.name, host.name, gpu, count, host.usd_per_hour, host.address, facts.cuda)

    def rent(self, offer: Offer, spec: MachineSpec, *, label: str, onstart: str, env: Mapping[str, str]) -> str:
        """Start the run in a session of its own there. Asked once; the label finds it after a lost answer."""
        host = self._host(offer.id)
        facts = self.facts.get(host.name) or Facts.parse(self._ask(host, "probe", within_s=PROBE_WITHIN_S))
        free = facts.free(spec)[: spec.num_gpus] if spec.needs_gpu else []
        self.orders.note("ordered", host, label)
        try:
            answer = self._ask(
                host,
                "rent",
                label=label,
                usd=f"{host.usd_per_hour:g}",
                holds=",".join(gpu.uuid for gpu in free) or CPU,
                onstart=onstart,
                run=run_script(),
                variables="".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items()),
            )
        except UnknownOutcome:
            raise
        except ProviderError as error:
            self.orders.note("gone", host, label)
            raise OfferGone(f"{error}; is ~/.ups there full, or not to be written?") from None
        word, _, what = answer.strip().partition(" ")
        if word != "rented" or not what.isdecimal():
            self.orders.note("gone", host, label)
            raise OfferGone(f"{host.name}: was taken by a run of {what or 'somebody'} in the meantime")
        self.orders.note("started", host, label, what)
        return instance_id(host, what)

    def describe(self, instance_id: str) -> Instance | None:
        """Running while any process of it lives, failed once it has ended by itself; gone with its machine's boot."""
        host, number = self._parts(instance_id)
        try:
            found = instances_in(host, self._ask(host, "show", number=number))
        except NoAnswer as error:
            if not self._is_off(host):
                raise
            label = self.orders.label_of(host.name, number)
            return Instance(instance_id, host.name, label, "away", error.reason, False, host.usd_per_hour)
        return found[0] if found else None

    def list_instances(self, prefix: str) -> list[Instance]:
        """Of every host that is named now or was used from this run directory.

        A silent one proves nothing where a run of the prefix was started from here; any other is told and left out.
        """
        hosts = list((self.orders.hosts | self.offered).values())
        answers = _at_once(lambda host: self._listed(host, prefix), hosts)
        return [one for found in answers for one in found if one.label.startswith(prefix)]

    def _listed(self, host: Host, prefix: str) -> list[Instance]:
        try:
            found = instances_in(host, self._ask(host, "list"))
        except ProviderError as error:
            if self.orders.pending(host.name, prefix) and not self._is_off(host):
                raise
            logger.warning("%s; what runs there is not known", error)
            return []
        numbers = {one.label: self._parts(one.id)[1] for one in found}
        for order in self.orders.pending(host.name):
            if order.number and order.label not in numbers:
                self.orders.note("gone", host, order.label)
            elif not order.number and order.label in numbers:
                self.orders.note("started", host, order.label, numbers[order.label])
        return found

    def logs(self, instance_id: str) -> str:
        """The last lines that were written; a first one that is cut is left out."""
        host, number = self._parts(instance_id)
        try:
            return self._ask(host, "log", number=number)
        except ProviderError:  # logs only help a reader; nothing depends on them
            return ""

    def destroy(self, instance_id: str) -> None:
        """Kill every process of it and remove its folder; that of a host that is off is ended once it answers."""
        host, number = self._parts(instance_id)
        label = self.orders.label_of(host.name, number)
        pauses_s = () if self._is_off(host) else DESTROY_AGAIN_AFTER_S
        try:
            answer = retrying(pauses_s, NoAnswer, pause=self.pause, warn=False)(
                self._ask, host, "destroy", number=number
            )
        except NoAnswer as error:
            if not self._is_off(host):
                raise ProviderError(
                    f"instance {instance_id} is not known to have ended ({error.reason}); it stops at its next upload "
                    f"once another machine has its run; end it with `ups destroy {instance_id}`"
                ) from None
            logger.warning("%s; its run is given up, and ended there once it answers", error)
            self.orders.note("left", host, label)
            return
        if not answer.startswith("destroyed"):
            raise ProviderError(f"instance {instance_id}: processes do not end ({answer.strip()}); look with ups ssh")
        if label:
            self.orders.note("gone", host, label)

    def has_account_variable(self, name: str) -> bool:
        """There is no account: every variable is handed on by us."""
        return False

    def ssh_address(self, instance_id: str) -> SshAddress:
        """As the user logs in to it by hand. Raises NoSuchInstance."""
        host, _ = self._parts(instance_id)
        if self.describe(instance_id) is None:
            raise NoSuchInstance(f"instance {instance_id}: is not there any more; `ups instances` lists them")
        return SshAddress(host.user, host.address, host.port or 22, tuple(login_command(host)))

    def _end_what_was_left(self, host: Host) -> None:
        for order in self.orders.pending(host.name):
            if order.is_left and order.number:
                self.destroy(instance_id(host, order.number))

    def _ask(self, host: Host, verb: str, *, within_s: float = 60.0, **values: str) -> str:
        """Ask, and remember since when a host is silent."""
        try:
            answer = self.shell.ask(host, verb, within_s=within_s, **values)
        except NoAnswer:
            self.silent_since.setdefault(host.name, self.now())
            raise
        except ProviderError:
            self.silent_since.pop(host.name, None)
            raise
        self.silent_since.pop(host.name, None)
        return answer

    def _is_off(self, host: Host) -> bool:
        since = self.silent_since.get(host.name)
        return since is not None and self.now() - since >= self.silent_s

    def _parts(self, instance: str) -> tuple[Host, str]:
        """Host and number. Raises NoSuchInstance."""
        name, _, number = instance.rpartition("-")
        if not name or not number.isdecimal():
            raise NoSuchInstance(f"instance {instance}: is none of a host; `ups instances --provider ssh` lists them")
        return self._host(name), number

    def _host(self, name: str) -> Host:
        return self.offered.get(name) or self.orders.hosts.get(name) or Host.parse(name)


def _at_once(question: Callable[[Host], T], hosts: Iterable[Host]) -> list[T]:
    """The answers of all hosts, in their order."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(question, hosts))
