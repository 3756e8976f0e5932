"""A pod of the emulated RunPod: a process group of its own in a folder of its own."""

import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.emulators.processes import MARK, Container
from harness.emulators.runpod.stock import Row, Shelf

ACTIONS = {
    "PROVISIONING": ["stop", "terminate"],
    "STARTING": ["stop", "terminate"],
    "RUNNING": ["stop", "restart", "terminate"],
    "EXITED": ["start", "terminate"],
    "ERROR": ["start", "terminate"],
    "TERMINATED": [],
}
LISTENS = 40000
"""Where the ports begin that are only shown: nobody listens there."""
CTL = """\
#!/usr/bin/env bash
[[ "$1 $2" == "remove pod" || "$1 $2" == "stop pod" ]] || { echo "runpodctl: unknown command" >&2; exit 1; }
exec python3 - "$1" "$3" << 'PY'
import json, os, sys, urllib.request
key = {"Authorization": f"Bearer {os.environ['RUNPOD_API_KEY']}"}
body = json.dumps({"action": sys.argv[1], "id": sys.argv[2]}).encode()
urllib.request.urlopen(urllib.request.Request("URL/runpodctl", body, key, method="POST"), timeout=20)
PY
"""


@dataclass
class Pod(Container):
    """One pod, from its creation on; times in seconds of the emulator's clock, the price in USD per hour."""

    id: str
    shelf: Shelf
    count: int
    price: float
    created_at: float
    boots_at: float
    folder: Path
    mark: str
    port: int
    contract: Mapping[str, Any] = field(repr=False)
    """The body of the order."""
    api_key: str = field(repr=False, default="")

    status: str = "PROVISIONING"
    started_at: float | None = None
    ended_at: float | None = None  # destroyed
    offline: bool = False
    stuck: bool = False
    image_fails: bool = False
    starts: int = 0
    exit_code: int | None = None
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def label(self) -> str:
        """Its name."""
        return str(self.contract["name"])

    @property
    def env(self) -> dict[str, str]:
        """The variables in its order."""
        return dict(self.contract.get("env") or {})

    @property
    def state(self) -> str:
        """Its status, as the harness words it."""
        return self.status.lower()

    @property
    def machine_id(self) -> str:
        """The nearest to a machine that the service names: the GPU's type, cloud and data center."""
        return self.shelf.id

    def wipe(self) -> None:
        """A fresh disk."""
        for name in ("root", "tmp"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir(parents=True)

    def start(self, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        """Start the container: its arguments are its command."""
        command = shlex.split(str(self.contract.get("args") or "")) or ["sleep", "infinity"]
        return self.run(command, environment)

    def environment(self, url: str, given: Mapping[str, str], path: str, *, ctl: bool) -> dict[str, str]:
        """What its container sees: the allowed variables, those of the order, and the documented ones."""
        tools = self.folder / "bin"
        tools.mkdir(exist_ok=True)
        if ctl:
            (tools / "runpodctl").write_text(CTL.replace("URL", url), "utf-8")
            (tools / "runpodctl").chmod(0o755)
        return {
            **given,
            **self.env,
            "PATH": f"{tools}:{path}",
            "HOME": str(self.home),
            "TMPDIR": str(self.folder / "tmp"),
            "RUNPOD_POD_ID": self.id,
            "RUNPOD_API_KEY": self.api_key,
            "RUNPOD_GPU_COUNT": str(self.count),
            "RUNPOD_DC_ID": self.shelf.data_center,
            "RUNPOD_PUBLIC_IP": "127.0.0.1",
            "RUNPOD_TCP_PORT_22": str(self.port),
            MARK: self.mark,
        }

    def row(self, now: float) -> Row:
        """The pod as the service answers it."""
        running = self.status == "RUNNING"
        has_ssh = "22/tcp" in (self.contract.get("ports") or [])
        placed = self.status not in ("PROVISIONING", "TERMINATED")
        return {
            "id": self.id,
            "name": self.label,
            "status": self.status,
            "actions": ACTIONS[self.status],
            "image": self.contract["image"],
            "args": self.contract.get("args") or "",
            "disk": self.contract.get("disk") or 10,
            "mounts": dict(self.contract.get("mounts") or {}),
            "ports": list(self.contract.get("ports") or []),
            "env": self.env,
            "registry": None,
            "gpu": {"id": self.shelf.gpu, "count": self.count, "vcpuCount": 8 * self.count, "memory": 32 * self.count},
            "cloud": self.shelf.cloud,
            "dataCenterId": self.shelf.data_center,
            "cudaVersion": self.shelf.cuda[-1],
            "ssh": {
                "proxy": ssh_endpoint("ssh.runpod.example", 22, f"{self.id}-64411eb2") if placed else None,
                "direct": ssh_endpoint("127.0.0.1", self.port, "root") if running and has_ssh else None,
            },
            "template": None,
            "cost": self.price if self.status in ("PROVISIONING", "STARTING", "RUNNING") else 0.0,
            "locked": False,
            "globalNetworking": {"enabled": False},
            "runtime": {"uptime": int(now - (self.started_at or now)), "ports": []} if running else None,
            "createdAt": rfc3339(self.created_at),
            "startedAt": rfc3339(self.started_at) if self.started_at is not None else None,
        }


def ssh_endpoint(host: str, port: int, user: str) -> Row:
    """One way to log in."""
    return {"host": host, "port": port, "username": user, "command": f"ssh {user}@{host} -p {port}"}


def rfc3339(at: float) -> str:
    """A time as the service writes it."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
