"""Vast.ai through its own SDK, of which this is the only importer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tasks.services.rental.provider import (
    Instance,
    MachineSpec,
    NoSuchInstance,
    Offer,
    ProviderError,
    ProviderRefused,
    SshAddress,
    UnknownOutcome,
)
from tasks.services.rental.providers.answers import redacted
from tasks.services.rental.providers.ending import destroy_for_good
from tasks.services.rental.providers.vast_answers import (
    KEY,
    SDK_ERRORS,
    answer_of,
    error_of,
    instance_of,
    proves_nothing,
    reason_of,
)
from tasks.services.rental.providers.vast_search import BID_MARGIN, fitting
from tasks.services.run import environment
from tasks.services.run.retry import retrying

if TYPE_CHECKING:
    from vastai import VastAI

URL = "VAST_URL"
RETRY_AFTER_S = (2.0, 5.0, 10.0, 20.0, 30.0, 60.0)


class VastProvider:
    """Vast.ai. The key comes from VAST_API_KEY or the SDK's own file, the address from VAST_URL."""

    supports_bids = True

    def __init__(self, *, pause: Callable[[float], None] = time.sleep) -> None:
        self.pause = pause
        self.client = _client()

    @classmethod
    def for_run(cls, _run_dir: Path) -> Self:
        """The factory of the registry; Vast.ai keeps nothing on this machine."""
        return cls()

    def search(self, spec: MachineSpec) -> list[Offer]:
        """At most 64 offers. Raises NoOffer, UnknownOutcome."""
        kind = "bid" if spec.interruptible else "on-demand"

        def ask(query: Mapping[str, Any]) -> object:
            return self._ask(
                lambda: self.client.search_offers(
                    query=dict(query), type=kind, order="dph_total", limit=64, storage=spec.disk_gb, no_default=True
                )
            )

        return fitting(spec, ask)

    def rent(self, offer: Offer, spec: MachineSpec, *, label: str, onstart: str, env: Mapping[str, str]) -> str:
        """One PUT, never sent twice: after a lost reply the caller looks for the label."""
        try:
            reply = self.client.create_instance(
                id=int(offer.id),
                image=spec.image,
                disk=spec.disk_gb,
                env={**environment.selected((URL,)), **env},  # with the address, so that it can destroy itself
                label=label,
                onstart_cmd=onstart,
                bid_price=offer.usd_per_hour if offer.is_bid else None,
                cancel_unavail=True,
                ssh=True,
            )
        except SDK_ERRORS as error:
            status, body = answer_of(error)
            self._drop(body.get("new_contract"))
            raise error_of(status, body, f"renting offer {offer.id}", renting=True) from None
        body = reply if isinstance(reply, dict) else {}
        if not body.get("success") or not body.get("new_contract"):
            self._drop(body.get("new_contract"))
            raise error_of(None, body, f"renting offer {offer.id}", renting=True)
        return str(body["new_contract"])

    def describe(self, instance_id: str) -> Instance | None:
        """One row, or None."""
        try:
            row = self._ask(lambda: self.client.show_instance(id=int(instance_id)))
        except NoSuchInstance:
            return None
        return instance_of(row) if row else None

    def list_instances(self, prefix: str) -> list[Instance]:
        """All pages of the list."""
        rows = self._ask(self.client.show_instances)
        if not isinstance(rows, list):
            raise UnknownOutcome("Vast.ai answered the list of instances with something that is no list")
        return [instance_of(row) for row in rows if str(row.get("label") or "").startswith(prefix)]

    def logs(self, instance_id: str) -> str:
        """The last hundred lines."""
        try:
            text = self.client.logs(instance_id=int(instance_id), tail="100")
        except SDK_ERRORS:  # logs only help a reader; nothing depends on them
            return ""
        return redacted(text, KEY) if isinstance(text, str) else ""

    def destroy(self, instance_id: str) -> None:
        """Destroy, and look again until it is gone: the reply alone proves nothing."""
        destroy_for_good(instance_id, lambda: self._destroy_once(instance_id), self.describe, self.pause)

    def _destroy_once(self, instance_id: str) -> str:
        try:
            self.client.destroy_instance(id=int(instance_id))
        except SDK_ERRORS as error:
            return reason_of(error)
        return ""

    def price_to_keep(self, instance_id: str) -> float | None:
        """A little above the least bid of its machine now."""
        row = self._ask(lambda: self.client.show_instance(id=int(instance_id)))
        least = row.get("min_bid") if row else None
        return BID_MARGIN * float(least) if isinstance(least, int | float) else None

    def change_bid(self, instance_id: str, usd_per_hour: float) -> None:
        """Asked at intervals that outlast Vast's limits: a bid that is sent twice is one bid."""
        self._ask(lambda: self.client.change_bid(id=int(instance_id), price=round(usd_per_hour, 4)))

    def has_account_variable(self, name: str) -> bool:
        """By name; values are masked and not asked for."""
        try:
            found = self._ask(lambda: self.client.show_env_vars(show_values=False))
        except ProviderRefused:  # a key without the right to read them
            return False
        return isinstance(found, dict) and name in found

    def ssh_address(self, instance_id: str) -> SshAddress:
        """Of the row: its proxy, whose address does not change."""
        row = self._ask(lambda: self.client.show_instance(id=int(instance_id)))
        if not row:
            raise NoSuchInstance(f"instance {instance_id}: Vast.ai has none; `ups instances` lists them")
        host, port = row.get("ssh_host"), row.get("ssh_port")
        if not host or not port:
            raise ProviderError(f"instance {instance_id}: takes no logins yet ({instance_of(row).state}); try again")
        return SshAddress("root", str(host), int(port))

    def credit(self) -> float | None:
        """Of users/current, asked once: nobody waits for it. A key without the right to read it says nothing."""
        try:
            found = self.client.show_user()
        except SDK_ERRORS as error:
            status, _ = answer_of(error)
            if status in (401, 403):
                return None
            raise UnknownOutcome(f"Vast.ai does not say what credit is left ({status or 'no answer'})") from None
        credit = found.get("credit") if isinstance(found, dict) else None
        return float(credit) if isinstance(credit, int | float) and not isinstance(credit, bool) else None

    def _drop(self, instance_id: object) -> None:
        """Destroy the instance that an error left behind, for it costs."""
        if isinstance(instance_id, int):
            self.destroy(str(instance_id))

    def _ask(self, call: Callable[[], Any]) -> Any:
        """A question that may be repeated: retried at intervals that outlast Vast's limits. Raises UnknownOutcome."""
        try:
            return retrying(RETRY_AFTER_S, proves_nothing, pause=self.pause, warn=False)(call)
        except SDK_ERRORS as error:
            raise error_of(*answer_of(error), "asking Vast.ai") from None


def _client() -> VastAI:
    from vastai import VastAI

    url = environment.get(URL).rstrip("/")
    try:
        return VastAI(retry=1, quiet=True, **({"server_url": url} if url else {}))
    except RuntimeError:
        raise ProviderRefused(
            "no Vast.ai key: put it into VAST_API_KEY, or store it with `vastai set api-key`"
        ) from None
