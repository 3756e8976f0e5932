"""ssh-orders.jsonl: on which hosts runs were started from a run directory, on disk before any of it is asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.services.rental.providers.ssh.hosts import Host
from tasks.services.run import jsonl
from ups_models.errors import BadInput

FILE = "ssh-orders.jsonl"


@dataclass
class Order:
    """A run that was to be started on a host under a label; without a number while it is not known whether it was."""

    host: str
    label: str
    number: str = ""
    is_gone: bool = False
    is_left: bool = False
    """Given up while its host was silent: it is ended once the host answers."""


class Orders:
    """The orders of a run directory, oldest first."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / FILE
        self.all: list[Order] = []
        self.hosts: dict[str, Host] = {}
        """Every host that was ordered from."""
        for number, entry in enumerate(jsonl.read(self.path, optional=False), start=1):
            try:
                self._apply(entry)
            except (KeyError, TypeError, BadInput):
                raise BadInput(
                    f"{self.path}: entry {number} is none of an order; runs may still go on: move the file away, "
                    "and look with `ups instances --provider ssh`, the hosts named in UPS_HOSTS"
                ) from None

    def pending(self, host: str, prefix: str = "") -> list[Order]:
        """Those on a host that are not known to be gone."""
        return [one for one in self.all if one.host == host and one.label.startswith(prefix) and not one.is_gone]

    def label_of(self, host: str, number: str) -> str:
        """The label of an instance; empty where it was not started from here."""
        return next((one.label for one in reversed(self.all) if (one.host, one.number) == (host, number)), "")

    def note(self, event: str, host: Host, label: str, number: str = "") -> None:
        """Write one event: ordered, started, gone or left."""
        text = f"{host.name}={host.usd_per_hour:g}" if host.usd_per_hour else host.name
        entry = {"event": event, "host": text, "label": label, "number": number}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        jsonl.append(self.path, entry, flush=True)
        self._apply(entry)

    def _apply(self, entry: dict[str, Any]) -> None:
        host, label, number = Host.parse(entry["host"]), str(entry["label"]), str(entry.get("number") or "")
        self.hosts[host.name] = host
        if entry.get("event") == "ordered":
            self.all.append(Order(host.name, label))
            return
        for one in self.pending(host.name):
            if one.label == label:
                one.number = number or one.number
                one.is_gone, one.is_left = entry.get("event") == "gone", entry.get("event") == "left"
