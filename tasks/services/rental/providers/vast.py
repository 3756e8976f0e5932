"""Vast.ai through its own SDK, of which this is the only importer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import requests

from tasks.services.rental.provider import (
    Instance,
    MachineSpec,
    NoOffer,
    NoSuchInstance,
    Offer,
    OfferGone,
    ProviderError,
    ProviderRefused,
    SshAddress,
    State,
    UnknownOutcome,
)
from tasks.services.run import environment
from tasks.services.run.retry import retrying
from ups_models.errors import UPSError

if TYPE_CHECKING:
    from vastai import VastAI

URL, KEY = "VAST_URL", "VAST_API_KEY"
BOOTING = (None, "created", "loading", "rebooting")
BROKEN = ("exited", "unknown")
BAD_WORDS = ("error", "failed", "failure", "exception", "traceback", "oci runtime", "permission denied")
TRANSIENT = (429, 500, 502, 503, 504)
RETRY_AFTER_S = (2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
DESTROY_AGAIN_AFTER_S = (3.5,) * 11
MAX_TEXT = 300
SDK_ERRORS = (requests.RequestException, KeyError, TypeError, ValueError, TimeoutError)
"""What the SDK raises: its HTTP library's errors, and its own slips over rows that it did not expect."""
BID_MARGIN = 1.2
"""What is bid is what is paid: a little above the least bid, and never above the user's limit."""


class _StillThere(ProviderError):
    """A destroyed instance is not gone yet."""


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
        """Only verified machines, reliable, with a driver new enough, and free for long enough."""
        kind = "bid" if spec.interruptible else "on-demand"
        query: dict[str, Any] = {
            "gpu_name": {"eq": spec.gpu.replace("_", " ")},
            "num_gpus": {"eq": spec.num_gpus},
            "disk_space": {"gte": spec.disk_gb},
            "cuda_max_good": {"gte": spec.min_cuda},
            "reliability": {"gte": 0.9},
            "verified": {"eq": True},
            "rentable": {"eq": True},
            "rented": {"eq": False},
            "duration": {"gte": spec.hours * 3600},
        }
        if spec.region:
            query["geolocation"] = {"in": [spec.region]}
        rows = self._ask(
            lambda: self.client.search_offers(
                query=query, type=kind, order="dph_total", limit=64, storage=spec.disk_gb, no_default=True
            )
        )
        least = "min_bid" if spec.interruptible else "dph_total"
        rows = sorted(rows or [], key=lambda row: float(row[least]))
        what, most = f"{spec.num_gpus} x {spec.gpu} ({kind})", spec.max_usd_per_hour
        if not rows:
            raise NoOffer(f"Vast.ai has no {what} that fits; choose another --gpu, less --disk, or no --region")
        if float(rows[0][least]) > most:
            raise NoOffer(
                f"no {what} under {most:g} USD/h: the cheapest is {float(rows[0][least]):.3f} USD/h; "
                "raise --max-price, or choose another --gpu"
            )
        margin = BID_MARGIN if spec.interruptible else 1.0
        return [_offer(row, min(most, margin * float(row[least]))) for row in rows if float(row[least]) <= most]

    def rent(self, offer: Offer, spec: MachineSpec, *, label: str, onstart: str, env: Mapping[str, str]) -> int:
        """One PUT, never sent twice: after a lost reply the caller looks for the label."""
        try:
            reply = self.client.create_instance(
                id=offer.id,
                image=spec.image,
                disk=spec.disk_gb,
                env={**environment.selected((URL,)), **env},  # with the address, so that it can destroy itself
                label=label,
                onstart_cmd=onstart,
                bid_price=offer.usd_per_hour if spec.interruptible else None,
                cancel_unavail=True,
                ssh=True,
            )
        except SDK_ERRORS as error:
            status, body = _answer(error)
            self._drop(body.get("new_contract"))
            raise _rebuilt(status, body, f"renting offer {offer.id}") from None
        body = reply if isinstance(reply, dict) else {}
        if not body.get("success") or not body.get("new_contract"):
            self._drop(body.get("new_contract"))
            raise _rebuilt(None, body, f"renting offer {offer.id}")
        return int(body["new_contract"])

    def describe(self, instance_id: int) -> Instance | None:
        """One row, or None."""
        try:
            row = self._ask(lambda: self.client.show_instance(id=instance_id))
        except NoSuchInstance:
            return None
        return _instance(row) if row else None

    def list_instances(self, prefix: str) -> list[Instance]:
        """All pages of the list."""
        rows = self._ask(self.client.show_instances)
        if not isinstance(rows, list):
            raise UnknownOutcome("Vast.ai answered the list of instances with something that is no list")
        return [_instance(row) for row in rows if str(row.get("label") or "").startswith(prefix)]

    def logs(self, instance_id: int) -> str:
        """The last hundred lines."""
        try:
            text = self.client.logs(instance_id=instance_id, tail="100")
        except SDK_ERRORS:  # logs only help a reader; nothing depends on them
            return ""
        return redacted(text) if isinstance(text, str) else ""

    def destroy(self, instance_id: int) -> None:
        """Destroy, and look again until it is gone: the reply alone proves nothing."""
        try:
            retrying(DESTROY_AGAIN_AFTER_S, _StillThere, pause=self.pause, warn=False)(self._destroy_once, instance_id)
        except _StillThere as error:
            raise ProviderError(
                f"instance {instance_id} is not destroyed ({error}), and costs money: "
                f"`ups destroy {instance_id}`, or destroy it in the console"
            ) from None

    def _destroy_once(self, instance_id: int) -> None:
        reason = "it is still listed"
        try:
            self.client.destroy_instance(id=instance_id)
        except SDK_ERRORS as error:
            status, body = _answer(error)
            reason = f"HTTP {status} {_text(body)}" if status else type(error).__name__
        try:
            if self.describe(instance_id) is None:
                return
        except (UnknownOutcome, ProviderRefused) as error:  # a refusal may pass, and the machine costs until then
            reason = str(error)
        raise _StillThere(reason)

    def has_account_variable(self, name: str) -> bool:
        """By name; values are masked and not asked for."""
        try:
            found = self._ask(lambda: self.client.show_env_vars(show_values=False))
        except ProviderRefused:  # a key without the right to read them
            return False
        return isinstance(found, dict) and name in found

    def ssh_address(self, instance_id: int) -> SshAddress:
        """Of the row: its proxy, whose address does not change."""
        row = self._ask(lambda: self.client.show_instance(id=instance_id))
        if not row:
            raise NoSuchInstance(f"instance {instance_id}: Vast.ai has none; `ups instances` lists them")
        host, port = row.get("ssh_host"), row.get("ssh_port")
        if not host or not port:
            raise ProviderError(f"instance {instance_id}: takes no logins yet ({_instance(row).state}); try again")
        return SshAddress("root", str(host), int(port))

    def credit(self) -> float | None:
        """Of users/current, asked once: nobody waits for it. A key without the right to read it says nothing."""
        try:
            found = self.client.show_user()
        except SDK_ERRORS as error:
            status, _ = _answer(error)
            if status in (401, 403):
                return None
            raise UnknownOutcome(f"Vast.ai does not say what credit is left ({status or 'no answer'})") from None
        credit = found.get("credit") if isinstance(found, dict) else None
        return float(credit) if isinstance(credit, int | float) and not isinstance(credit, bool) else None

    def _drop(self, instance_id: object) -> None:
        """Destroy the instance that an error left behind, for it costs."""
        if isinstance(instance_id, int):
            self.destroy(instance_id)

    def _ask(self, call: Callable[[], Any]) -> Any:
        """A question that may be repeated: retried at intervals that outlast Vast's limits. Raises UnknownOutcome."""
        try:
            return retrying(RETRY_AFTER_S, _is_transient, pause=self.pause, warn=False)(call)
        except SDK_ERRORS as error:
            raise _rebuilt(*_answer(error), "asking Vast.ai") from None


def _client() -> VastAI:
    from vastai import VastAI

    url = environment.get(URL).rstrip("/")
    try:
        return VastAI(retry=1, quiet=True, **({"server_url": url} if url else {}))
    except RuntimeError:
        raise ProviderRefused(
            "no Vast.ai key: put it into VAST_API_KEY, or store it with `vastai set api-key`"
        ) from None


def _offer(row: Mapping[str, Any], usd_per_hour: float) -> Offer:
    return Offer(
        int(row["id"]),
        int(row["machine_id"]),
        str(row["gpu_name"]),
        int(row["num_gpus"]),
        usd_per_hour,
        str(row.get("geolocation") or ""),
        float(row.get("storage_cost") or 0.0),
    )


def _instance(row: Mapping[str, Any]) -> Instance:
    if "actual_status" not in row or "intended_status" not in row:
        raise UnknownOutcome(f"Vast.ai does not say whether instance {row.get('id')} runs")
    actual, intended = row.get("actual_status"), row.get("intended_status")
    detail = " ".join(str(row.get("status_msg") or "").split())[:MAX_TEXT]
    state: State = "away"
    if actual in BROKEN or (actual != "running" and any(word in detail.lower() for word in BAD_WORDS)):
        state = "failed"
    elif intended == "running" and actual == "running":
        state = "running"
    elif intended == "running" and actual in BOOTING:
        state = "booting"
    return Instance(
        int(row["id"]),
        int(row.get("machine_id") or 0),
        str(row.get("label") or ""),
        state,
        redacted(detail or str(actual)),
        bool(row.get("is_bid")),
        float(row.get("dph_total") or 0.0),
    )


def _is_transient(error: Exception) -> bool:
    status = _answer(error)[0]
    return isinstance(error, SDK_ERRORS) and (status is None or status in TRANSIENT)


def _answer(error: Exception) -> tuple[int | None, dict[str, Any]]:
    """HTTP status and body of what the SDK raised; None: there was no answer."""
    response = getattr(error, "response", None)
    if response is None:
        return None, {}
    try:
        body = response.json()
    except ValueError:
        body = {"msg": response.text[:MAX_TEXT]}
    return int(response.status_code), body if isinstance(body, dict) else {}


def _rebuilt(status: int | None, body: Mapping[str, Any], doing: str) -> UPSError:
    """An error of ours from status and body, without secrets."""
    text = _text(body)
    if status is None and not body:
        return UnknownOutcome(f"{doing}: no answer")
    if status in (401, 403) or any(word in text.lower() for word in ("auth", "credit", "balance")):
        return _refusal(text, doing)
    if "no_such_ask" in text or status == 410 or "bid" in text.lower():
        return OfferGone(f"{doing}: the offer is gone ({text})")
    if status == 404:
        return NoSuchInstance(f"{doing}: it is gone ({text})")
    kind = UnknownOutcome if status in TRANSIENT else ProviderError
    return kind(f"{doing}: {f'HTTP {status}' if status else 'refused'} ({text})")


def _refusal(text: str, doing: str) -> ProviderRefused:
    if "credit" in text.lower() or "balance" in text.lower():
        return ProviderRefused(f"{doing}: the account has no credit ({text}); add some")
    return ProviderRefused(
        f"{doing}: Vast.ai refuses the key ({text}); check VAST_API_KEY, its rights, and whether the account's "
        "two-factor login needs a key of its own"
    )


def _text(body: Mapping[str, Any]) -> str:
    words = [str(body[key]) for key in ("error", "msg", "detail") if body.get(key)]
    return redacted(": ".join(words)[:MAX_TEXT] or "no reason given")


def redacted(text: str) -> str:
    """A text without the secrets that this process knows."""
    for name in (KEY, "WANDB_API_KEY"):
        if secret := environment.get(name):
            text = text.replace(secret, f"<{name}>")
    return text
