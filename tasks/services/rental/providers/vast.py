"""Machines for rent: what a provider does, and Vast.ai through its own SDK, of which this is the only importer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import requests

from ups_models.errors import BadInput, UPSError

if TYPE_CHECKING:
    from vastai import VastAI

State = Literal["booting", "running", "failed", "away"]
"""away: neither running nor about to: outbid, stopped, its host offline. Whether that lasts, the watcher decides."""

BOOTING = (None, "created", "loading", "rebooting")
BROKEN = ("exited", "unknown")
BAD_WORDS = ("error", "failed", "failure", "exception", "traceback", "oci runtime", "permission denied")
TRANSIENT = (429, 500, 502, 503, 504)
RETRY_AFTER_S = (2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
DESTROY_TRIES, DESTROY_PAUSE_S = 12, 3.5
MAX_TEXT = 300
SDK_ERRORS = (requests.RequestException, KeyError, TypeError, ValueError, TimeoutError)
"""What the SDK raises: its HTTP library's errors, and its own slips over rows that it did not expect."""
BID_MARGIN = 1.2
"""What is bid is what is paid: a little above the least bid, and never above the user's limit."""


class ProviderError(UPSError):
    """The provider said no, or something that cannot be understood."""


class ProviderRefused(BadInput):
    """What the account's owner must cure: the key, its rights, the credit."""


class NoOffer(BadInput):
    """Nothing on the market fits."""


class NoSuchInstance(ProviderError):
    """It is gone."""


class OfferGone(ProviderError):
    """Somebody else was faster, or the bid was too low."""


class UnknownOutcome(ProviderError):
    """No answer, or one that proves nothing: what was asked may have happened."""


@dataclass(frozen=True)
class MachineSpec:
    """The machine that is looked for."""

    gpu: str = "RTX_4090"
    num_gpus: int = 1
    disk_gb: float = 40.0
    max_usd_per_hour: float = 1.0
    interruptible: bool = True
    region: str | None = None
    image: str = "pytorch/pytorch:2.6.0-cuda12.4-cudnn9-runtime"
    min_cuda: float = 12.4
    hours: float = 24.0


@dataclass(frozen=True)
class Offer:
    """One machine on the market, at the price that would be paid for it: its own, or our bid."""

    id: int
    machine_id: int
    gpu: str
    num_gpus: int
    usd_per_hour: float
    region: str


@dataclass(frozen=True)
class Instance:
    """One rented machine, and nothing of the provider's row that could carry a secret."""

    id: int
    machine_id: int
    label: str
    state: State
    detail: str
    is_bid: bool
    usd_per_hour: float


class Provider(Protocol):
    """Rents machines and gives them back."""

    name: str

    def search(self, wanted: MachineSpec) -> list[Offer]:
        """Offers under the price, cheapest first. Raises NoOffer that says what the cheapest one was."""

    def rent(self, offer: Offer, wanted: MachineSpec, *, label: str, onstart: str, env: Mapping[str, str]) -> int:
        """Rent once; the instance's id. Raises OfferGone, Uncertain when it may have been rented all the same."""

    def describe(self, instance_id: int) -> Instance | None:
        """The instance as it is now; None once it is gone. Raises Uncertain."""

    def list_instances(self, prefix: str) -> list[Instance]:
        """Every instance whose label begins so, stopped ones included. Raises Uncertain."""

    def logs(self, instance_id: int) -> str:
        """The last lines that the instance wrote; empty when there are none to be had."""

    def destroy(self, instance_id: int) -> None:
        """End the instance and its cost, and see that it is gone. Raises ProviderError when it is not."""

    def has_account_variable(self, name: str) -> bool:
        """Whether the account hands a variable of this name to every instance."""


class VastProvider:
    """Vast.ai. The key comes from VAST_API_KEY or the SDK's own file, the address from VAST_URL."""

    name = "vast"

    def __init__(self, *, pause: Callable[[float], None] = time.sleep) -> None:
        self.pause = pause
        self.client = _client()

    def search(self, wanted: MachineSpec) -> list[Offer]:
        """Verified machines alone, reliable, with a driver new enough, and free for long enough."""
        kind = "bid" if wanted.interruptible else "on-demand"
        query: dict[str, Any] = {
            "gpu_name": {"eq": wanted.gpu.replace("_", " ")},
            "num_gpus": {"eq": wanted.num_gpus},
            "disk_space": {"gte": wanted.disk_gb},
            "cuda_max_good": {"gte": wanted.min_cuda},
            "reliability": {"gte": 0.9},
            "verified": {"eq": True},
            "rentable": {"eq": True},
            "rented": {"eq": False},
            "duration": {"gte": wanted.hours * 3600},
        }
        if wanted.region:
            query["geolocation"] = {"in": [wanted.region]}
        rows = self._ask(
            lambda: self.client.search_offers(
                query=query, type=kind, order="dph_total", limit=64, storage=wanted.disk_gb, no_default=True
            )
        )
        least = "min_bid" if wanted.interruptible else "dph_total"
        rows = sorted(rows or [], key=lambda row: float(row[least]))
        what, most = f"{wanted.num_gpus} x {wanted.gpu} ({kind})", wanted.max_usd_per_hour
        if not rows:
            raise NoOffer(f"Vast.ai has no {what} that fits; choose another --gpu, less --disk, or no --region")
        if float(rows[0][least]) > most:
            raise NoOffer(
                f"no {what} under {most:g} USD/h: the cheapest is {float(rows[0][least]):.3f} USD/h; "
                "raise --max-price, or choose another --gpu"
            )
        margin = BID_MARGIN if wanted.interruptible else 1.0
        return [_offer(row, min(most, margin * float(row[least]))) for row in rows if float(row[least]) <= most]

    def rent(self, offer: Offer, wanted: MachineSpec, *, label: str, onstart: str, env: Mapping[str, str]) -> int:
        """One PUT, never sent twice: a lost reply is settled by looking for the label."""
        bid = offer.usd_per_hour if wanted.interruptible else None
        try:
            reply = self.client.create_instance(
                id=offer.id,
                image=wanted.image,
                disk=wanted.disk_gb,
                env=dict(env),
                label=label,
                onstart_cmd=onstart,
                bid_price=bid,
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
        except SDK_ERRORS:  # logs are help, not truth
            return ""
        return redacted(text) if isinstance(text, str) else ""

    def destroy(self, instance_id: int) -> None:
        """Destroy, and look again until it is gone: the reply alone proves nothing."""
        said = ""
        for _ in range(DESTROY_TRIES):
            try:
                self.client.destroy_instance(id=instance_id)
            except SDK_ERRORS as error:
                status, body = _answer(error)
                said = f"HTTP {status} {_text(body)}" if status else type(error).__name__
            try:
                if self.describe(instance_id) is None:
                    return
            except (UnknownOutcome, ProviderRefused) as error:  # a refusal may pass, and the machine costs until then
                said = str(error)
            self.pause(DESTROY_PAUSE_S)
        raise ProviderError(
            f"instance {instance_id} is not destroyed ({said or 'it is still listed'}), and costs money: "
            f"`ups destroy {instance_id}`, or destroy it in the console"
        )

    def has_account_variable(self, name: str) -> bool:
        """By name; values are masked and not asked for."""
        try:
            found = self._ask(lambda: self.client.show_env_vars(show_values=False))
        except ProviderRefused:  # a key without the right to read them
            return False
        return isinstance(found, dict) and name in found

    def _drop(self, instance_id: object) -> None:
        """An error can leave an instance behind, which costs."""
        if isinstance(instance_id, int):
            self.destroy(instance_id)

    def _ask(self, call: Callable[[], Any]) -> Any:
        """A question that may be repeated: retried at intervals that outlast Vast's limits. Raises Uncertain."""
        for pause_s in (*RETRY_AFTER_S, None):
            try:
                return call()
            except SDK_ERRORS as error:
                status, body = _answer(error)
                transient = status is None or status in TRANSIENT
                if not transient or pause_s is None:
                    raise _rebuilt(status, body, "asking Vast.ai") from None
                self.pause(pause_s)
        raise AssertionError


def _client() -> VastAI:
    from vastai import VastAI

    url = os.environ.get("VAST_URL", "").rstrip("/")
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
    is_bid = bool(row.get("is_bid"))
    return Instance(
        int(row["id"]),
        int(row.get("machine_id") or 0),
        str(row.get("label") or ""),
        state,
        redacted(detail or str(actual)),
        is_bid,
        float(row.get("dph_total") or 0.0),
    )


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
    for name in ("VAST_API_KEY", "WANDB_API_KEY"):
        secret = os.environ.get(name)
        if secret:
            text = text.replace(secret, f"<{name}>")
    return text
