"""RunPod through its REST API v2 (docs.runpod.io/api-reference-v2)."""

from __future__ import annotations

import base64
import gzip
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx

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
    UnknownOutcome,
)
from tasks.services.rental.providers.ending import destroy_for_good
from tasks.services.rental.providers.runpod_answers import (
    KEY,
    TERMINATED,
    events_in,
    instance_of,
    is_id,
    lines_of,
    object_in,
)
from tasks.services.rental.providers.runpod_search import fitting, version
from tasks.services.run import environment
from tasks.services.run.retry import retrying
from tasks.services.tracking.run_path import is_this_machine

logger = logging.getLogger(__name__)

URL, PUBLIC_URL = "RUNPOD_URL", "https://api.runpod.io/v2"
RETRY_AFTER_S = (2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
LONGEST_WAIT_S = 120.0
"""The most that a 429 is allowed to ask for."""
TIMEOUT = httpx.Timeout(60.0, connect=20.0)
TAIL, LOG_BYTES, LOG_IDLE_S, LOG_WITHIN_S = 100, 1_000_000, 2.0, 15.0
"""Of a log, which is a stream without end: lines, bytes, seconds without a further one, seconds in all."""
ENDS_ITSELF = "runpodctl remove pod $RUNPOD_POD_ID || runpodctl stop pod $RUNPOD_POD_ID"
"""What ends a pod from within: every pod has this program, with a key of its own that is good for itself."""
ARGS = "bash -c 'echo {script} | base64 -d | gunzip > $HOME/onstart.sh; bash $HOME/onstart.sh; sleep infinity'"
"""The command of the container. It does not end: RunPod would start it again, on an empty disk."""
Read = TypeVar("Read")


class RunpodProvider:
    """RunPod. The key comes from RUNPOD_API_KEY, the address from RUNPOD_URL."""

    supports_bids = False

    def __init__(self, *, pause: Callable[[float], None] = time.sleep) -> None:
        self.pause = pause
        self.client = _client()
        self.wait_s = 0.0
        """What the newest answer asks to wait for."""
        self.refusals: dict[str, str] = {}
        """Offers that were refused since the last machine, and why."""
        self.has_told = False

    @classmethod
    def for_run(cls, _run_dir: Path) -> Self:
        """The factory of the registry; RunPod keeps nothing on this machine."""
        return cls()

    def search(self, spec: MachineSpec) -> list[Offer]:
        """What the catalog has of the GPUs, by data center. Raises NoOffer, UnknownOutcome."""
        if not self.has_told:
            self.has_told = True
            _warn_of_wishes(spec)
        return self._not_refused(fitting(spec, self._catalog))

    def rent(self, offer: Offer, spec: MachineSpec, *, label: str, onstart: str, env: Mapping[str, str]) -> str:
        """One POST, never sent twice: after a lost answer the caller looks for the label."""
        cloud, place, gpu = offer.id.split("/", 2)
        order: dict[str, Any] = {
            "name": label,
            "image": spec.image,
            "cloud": cloud,
            "gpu": {"id": gpu, "count": spec.num_gpus, "minCudaVersion": version(spec.min_cuda)} | _memory(spec),
            "disk": math.ceil(spec.disk_gb),
            "args": ARGS.format(script=base64.b64encode(gzip.compress(onstart.encode(), mtime=0)).decode()),
            "env": {**env, environment.DESTROY: ENDS_ITSELF},
            "ports": ["22/tcp"],
            "startSsh": True,
            **({"dataCenterIds": [place]} if place else {}),
        }
        doing = f"renting {offer.id}"
        response = self._send("POST", "pods", doing, json=order)
        try:
            pod = object_in(response.status_code, response.content, doing, renting=True)
        except OfferGone as error:
            self.refusals[offer.id] = str(error)
            raise
        if not is_id(pod.get("id")):
            raise UnknownOutcome(f"{doing}: the answer names no pod")
        self.refusals = {}
        return str(pod["id"])

    def describe(self, instance_id: str) -> Instance | None:
        """One pod, or None; one that is terminated may still be shown."""
        try:
            return self._ask(_path(instance_id), "asking for an instance", _unless_terminated)
        except NoSuchInstance:
            return None

    def list_instances(self, prefix: str) -> list[Instance]:
        """All pods; they come on one page."""

        def read(body: Mapping[str, Any]) -> list[Instance]:
            rows = body.get("pods")
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise UnknownOutcome("RunPod answered the list of instances with something that is no list")
            ours = [row for row in rows if not isinstance(row.get("name"), str) or row["name"].startswith(prefix)]
            return [one for row in ours if (one := _unless_terminated(row)) is not None]

        return self._ask("pods", "asking for the instances", read)

    def logs(self, instance_id: str) -> str:
        """The last hundred lines of the container: what the stream has at once."""
        path, params = f"{_path(instance_id)}/logs", {"source": "container", "tail": str(TAIL)}
        content, until = b"", time.monotonic() + LOG_WITHIN_S
        try:
            with self.client.stream("GET", path, params=params, timeout=httpx.Timeout(20.0, read=LOG_IDLE_S)) as found:
                if found.status_code != 200:
                    return ""
                for part in found.iter_bytes():
                    content += part
                    if events_in(content) >= TAIL or len(content) > LOG_BYTES or time.monotonic() > until:
                        break
        except (httpx.HTTPError, httpx.StreamError):  # it has paused, or broken off: what came is the log
            logger.debug("the log of %s has no more at the moment", instance_id)
        return lines_of(content.decode("utf-8", "replace"))

    def destroy(self, instance_id: str) -> None:
        """Delete, and look again until it is gone: the answer alone proves nothing."""
        destroy_for_good(instance_id, lambda: self._delete(instance_id), self.describe, self._pause)

    def has_account_variable(self, name: str) -> bool:
        """None is handed to pods by itself: a secret of the account must be named in each order."""
        return False

    def ssh_address(self, instance_id: str) -> SshAddress:
        """RunPod's own door, which needs no server in the image; a port of the pod where there is no such door."""
        try:
            pod = self._ask(_path(instance_id), "asking for an instance", dict)
        except NoSuchInstance:
            pod = {"status": TERMINATED}
        if pod.get("status") == TERMINATED:
            raise NoSuchInstance(f"instance {instance_id}: RunPod has none; `ups instances` lists them")
        ways = pod.get("ssh")
        for way in (ways.get("proxy"), ways.get("direct")) if isinstance(ways, dict) else ():
            if pod.get("status") == "RUNNING" and isinstance(way, dict) and isinstance(way.get("port"), int):
                return SshAddress(str(way.get("username")), str(way.get("host")), way["port"])
        raise ProviderError(f"instance {instance_id}: takes no logins yet ({instance_of(pod).state}); try again")

    def _catalog(self, parameters: Mapping[str, str]) -> Mapping[str, Any]:
        def read(body: Mapping[str, Any]) -> Mapping[str, Any]:
            if not isinstance(body.get("gpus"), list):
                raise UnknownOutcome("RunPod answered a search with something that is no list of GPUs")
            return body

        return self._ask("catalog/gpus", "asking for offers", read, parameters)

    def _not_refused(self, offers: list[Offer]) -> list[Offer]:
        """Raises NoOffer once after all were refused: by a rule, which a person must know of, or for a while."""
        refused = [self.refusals[offer.id] for offer in offers if offer.id in self.refusals]
        if len(refused) == len(offers):
            self.refusals = {}
            raise NoOffer(
                f"RunPod refuses every offer that its catalog names ({refused[-1]}); choose another --gpu, --region, "
                "--image or --disk, or try again later"
            )
        return offers

    def _delete(self, instance_id: str) -> str:
        doing = "destroying it"
        try:
            response = self._send("DELETE", _path(instance_id), doing)
            object_in(response.status_code, response.content, doing)
        except NoSuchInstance:
            return ""
        except (ProviderError, ProviderRefused) as error:
            return str(error)
        return ""

    def _ask(
        self, path: str, doing: str, read: Callable[[Mapping[str, Any]], Read], params: Mapping[str, str] | None = None
    ) -> Read:
        """A question that may be repeated: until an answer can be read. Raises UnknownOutcome."""

        def once() -> Read:
            response = self._send("GET", path, doing, params=dict(params or {}))
            return read(object_in(response.status_code, response.content, doing))

        return retrying(RETRY_AFTER_S, UnknownOutcome, pause=self._pause, warn=False)(once)

    def _send(self, method: str, path: str, doing: str, **more: Any) -> httpx.Response:
        """One request. Raises UnknownOutcome without an answer."""
        self.wait_s = 0.0
        try:
            response = self.client.request(method, path, **more)
        except httpx.HTTPError as error:
            raise UnknownOutcome(f"{doing}: no answer ({type(error).__name__})") from None
        wait = response.headers.get("Retry-After", "")
        self.wait_s = min(float(wait), LONGEST_WAIT_S) if wait.isdecimal() else 0.0
        return response

    def _pause(self, seconds: float) -> None:
        self.pause(max(seconds, self.wait_s))


def _client() -> httpx.Client:
    key, url = environment.get(KEY), environment.get(URL, PUBLIC_URL).rstrip("/")
    if not key:
        raise ProviderRefused(f"no RunPod key: put it into {KEY}")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ProviderRefused(f"{KEY}: is no key of RunPod; copy it again")
    if not _is_safe(url):
        raise ProviderRefused(f"{URL}: is no https:// address (http:// only on this machine); no key is sent there")
    return httpx.Client(
        base_url=url,
        headers={"Authorization": f"Bearer {key}"},
        timeout=TIMEOUT,
        follow_redirects=False,
        trust_env=url.startswith("https:"),  # nothing for this machine goes through a proxy
    )


def _is_safe(url: str) -> bool:
    try:
        parts, known = urlsplit(url), httpx.URL(url)
        host = parts.hostname or ""
    except (ValueError, httpx.InvalidURL):
        return False
    if not host or host != known.host:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_this_machine(host))


def _memory(spec: MachineSpec) -> dict[str, int]:
    return {"minRamPerGpu": math.ceil(spec.ram_gb / spec.num_gpus)} if spec.ram_gb else {}


def _path(instance_id: str) -> str:
    return f"pods/{quote(instance_id, safe='')}"


def _unless_terminated(pod: Mapping[str, Any]) -> Instance | None:
    return None if pod.get("status") == TERMINATED else instance_of(pod)


def _warn_of_wishes(spec: MachineSpec) -> None:
    """Say which wishes make no difference here."""
    if spec.interruptible:
        logger.info("RunPod rents on demand only: --interruptible changes neither the price nor the risk")
    if spec.inet_mbps or spec.reliability != MachineSpec.reliability:
        logger.warning(
            "RunPod does not say how fast and how reliable a machine is: --bandwidth and --reliability are not "
            "looked at"
        )
