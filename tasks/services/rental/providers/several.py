"""Several providers as one: all are asked, and the ids of what they rent begin with their names."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from tasks.services.rental.provider import (
    Accounted,
    Hosted,
    Instance,
    MachineSpec,
    NoOffer,
    NoSuchInstance,
    Offer,
    Provider,
    ProviderError,
    Reachable,
    Rebiddable,
    SshAddress,
    UnknownOutcome,
)
from ups_models.errors import BadInput

logger = logging.getLogger(__name__)

BETWEEN = ":"
T = TypeVar("T")


@dataclass(frozen=True)
class Several:
    """Providers by name, in the order in which they are asked."""

    providers: Mapping[str, Provider]

    @property
    def supports_bids(self) -> bool:
        """Whether any of them does."""
        return any(one.supports_bids for one in self.providers.values())

    def search(self, spec: MachineSpec) -> list[Offer]:
        """The offers of all. Raises NoOffer with the reasons of each, UnknownOutcome where one of them said nothing."""
        found: list[Offer] = []
        reasons: list[str] = []
        silent: list[UnknownOutcome] = []
        for name, provider in self.providers.items():
            try:
                offers = provider.search(spec)
            except NoOffer as error:
                reasons.append(str(error))
            except UnknownOutcome as error:
                logger.warning("%s: its offers are not known", error)
                silent.append(error)
            else:
                found += [
                    replace(one, id=_joined(name, one.id), machine_id=_joined(name, one.machine_id)) for one in offers
                ]
        if not found and silent:
            raise silent[0]
        if not found:
            raise NoOffer("; ".join(reasons))
        return sorted(found, key=lambda one: one.usd_per_hour)

    def rent(self, offer: Offer, spec: MachineSpec, *, label: str, onstart: str, env: Mapping[str, str]) -> str:
        """Of the provider whose offer it is."""
        name, number = self._parted(offer.id)
        own = replace(offer, id=number, machine_id=self._parted(offer.machine_id)[1])
        return _joined(name, self.providers[name].rent(own, spec, label=label, onstart=onstart, env=env))

    def describe(self, instance_id: str) -> Instance | None:
        """As its provider says."""
        name, number = self._parted(instance_id)
        found = self.providers[name].describe(number)
        return _renamed(name, found) if found is not None else None

    def list_instances(self, prefix: str) -> list[Instance]:
        """Of all; one that says nothing leaves the list unknown."""
        return [
            _renamed(name, one) for name, provider in self.providers.items() for one in provider.list_instances(prefix)
        ]

    def logs(self, instance_id: str) -> str:
        """As its provider has them."""
        return self._of(instance_id, lambda provider, number: provider.logs(number))

    def destroy(self, instance_id: str) -> None:
        """By its provider."""
        self._of(instance_id, lambda provider, number: provider.destroy(number))

    def has_account_variable(self, name: str) -> bool:
        """Only where every provider has it: the job is packed before the machine is chosen."""
        return all(provider.has_account_variable(name) for provider in self.providers.values())

    def ssh_address(self, instance_id: str) -> SshAddress | None:
        """Of a provider that knows how to log in. Raises ProviderError for another."""

        def ask(provider: Provider, number: str) -> SshAddress | None:
            if isinstance(provider, Reachable):
                return provider.ssh_address(number)
            raise ProviderError(f"instance {instance_id}: its provider does not say how to log in")

        return self._of(instance_id, ask)

    def credit(self) -> float | None:
        """The least that any account has left; None where none says."""
        known = [one.credit() for one in self.providers.values() if isinstance(one, Accounted)]
        return min((credit for credit in known if credit is not None), default=None)

    def price_to_keep(self, instance_id: str) -> float | None:
        """Of a provider that takes other bids; None of another."""
        return self._of(
            instance_id,
            lambda provider, number: provider.price_to_keep(number) if isinstance(provider, Rebiddable) else None,
        )

    def change_bid(self, instance_id: str, usd_per_hour: float) -> None:
        """Of a provider that takes other bids. Raises ProviderError for another."""

        def bid(provider: Provider, number: str) -> None:
            if not isinstance(provider, Rebiddable):
                raise ProviderError(f"instance {instance_id}: its provider takes no other bid")
            provider.change_bid(number, usd_per_hour)

        self._of(instance_id, bid)

    def use_hosts(self, hosts: str) -> None:
        """For those whose machines the user names. Raises BadInput where there is none to take them."""
        taking = [one for one in self.providers.values() if isinstance(one, Hosted)]
        if hosts and not taking:
            raise BadInput(
                f"--hosts: {' and '.join(self.providers)} have machines of their own; leave it out, or add ssh"
            )
        for one in taking:
            one.use_hosts(hosts)

    def _of(self, instance_id: str, ask: Callable[[Provider, str], T]) -> T:
        name, number = self._parted(instance_id)
        return ask(self.providers[name], number)

    def _parted(self, joined: str) -> tuple[str, str]:
        name, _, number = joined.partition(BETWEEN)
        if name not in self.providers:
            raise NoSuchInstance(f"instance {joined}: is of none of {', '.join(self.providers)}")
        return name, number


def _joined(name: str, number: str) -> str:
    return f"{name}{BETWEEN}{number}"


def _renamed(name: str, one: Instance) -> Instance:
    return replace(one, id=_joined(name, one.id), machine_id=_joined(name, one.machine_id))
