"""An instance of the emulated Vast.ai: a process group of its own in a folder of its own."""

import logging
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.emulators.processes import MARK, Container
from harness.emulators.vast.faults import Faults
from harness.emulators.vast.market import Offer, Row

logger = logging.getLogger(__name__)

HOURS_A_MONTH = 30 * 24
SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass
class Instance(Container):
    """One contract, from its creation on; times in seconds of the emulator's clock, prices in USD per hour."""

    id: int
    offer: Offer
    is_bid: bool
    price: float
    created_at: float
    folder: Path
    mark: str
    api_key: str = field(repr=False)
    disk: float = 10.0
    label: str | None = None
    image: str | None = None
    onstart: str | None = field(default=None, repr=False)
    env: dict[str, str] = field(default_factory=dict, repr=False)
    runtype: str = "ssh"
    args: list[str] | None = None

    state: str = "loading"  # actual_status as long as the host is online
    intended: str = "running"
    status_msg: str = ""
    ended_at: float | None = None  # destroyed
    boots_at: float = 0.0
    resume_at: float | None = None
    halted: bool = False  # by the user, another bid, the credit or the end of the contract
    outbid: bool = False
    displaced_by: int | None = None  # the on-demand instance that took the machine
    offline: bool = False
    crashed: bool = False  # died with its host, which does not know yet
    stuck: bool = False
    image_fails: bool = False
    starts: int = 0
    exit_code: int | None = None
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    ssh_keys: dict[int, str] = field(default_factory=dict)

    @property
    def machine_id(self) -> int:
        """The machine that it runs on."""
        return self.offer.machine_id

    @property
    def pgid(self) -> int | None:
        """Process group of the last start."""
        return None if self.process is None else self.process.pid

    @property
    def disk_per_hour(self) -> float:
        """Price of its disk, USD per hour."""
        return self.disk * self.offer.storage_cost / HOURS_A_MONTH

    def make_folder(self) -> None:
        """The container's file system, with the onstart script where the real one has it."""
        for name in ("root", "workspace", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.home / "onstart.sh").write_text((self.onstart or "") + "\n")

    def wipe(self) -> None:
        """A fresh disk."""
        for name in ("root", "workspace", "tmp"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.make_folder()

    def start(self, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        """Start the container: onstart for ssh and jupyter, the command itself for args."""
        command = ["bash", "onstart.sh"]
        if self.runtype == "args":
            command = [*(self.args or ["true"])]
        return self.run(command, environment)

    def environment(self, url: str, given: Mapping[str, str], account: Mapping[str, str], path: str) -> dict[str, str]:
        """What onstart sees: the allowed variables, the account's, the create's and the documented ones."""
        own = {name: str(value) for name, value in self.env.items() if SHELL_NAME.match(name)}
        return {
            **given,
            **account,
            "VAST_URL": url,
            **own,
            "PATH": own.get("PATH", path),
            "HOME": str(self.home),
            "TMPDIR": str(self.folder / "tmp"),
            "DATA_DIRECTORY": str(self.folder / "workspace"),
            "CONTAINER_ID": str(self.id),
            "CONTAINER_API_KEY": self.api_key,
            "VAST_CONTAINERLABEL": f"C.{self.id}",
            "GPU_COUNT": str(self.offer.num_gpus),
            "PUBLIC_IPADDR": "127.0.0.1",
            "VAST_TCP_PORT_22": str(self.ssh_port),
            MARK: self.mark,
        }

    @property
    def ssh_port(self) -> int:
        """A port that is only shown: nobody listens there."""
        return 40000 + self.id % 20000

    def status(self, now: float, faults: Faults) -> str | None:
        """actual_status; null in the first half of the first boot."""
        if self.offline:
            return "offline"
        half = self.created_at + faults.boot_delay_s / 2
        return None if self.state == "loading" and not self.starts and now < half else self.state

    def row(self, now: float, faults: Faults, account: Mapping[str, str]) -> Row:
        """The instance as show_instance answers it."""
        shown_env = {**(account if faults.account_env_in_extra_env else {}), **self.env}
        running = self.state == "running" and not self.offline
        end_date = self.created_at + self.offer.duration
        row: Row = self.offer.row(rented=True) | {
            "id": self.id,
            "bundle_id": self.offer.id,
            "label": self.label,
            "actual_status": self.status(now, faults),
            "intended_status": self.intended,
            "cur_state": "stopped" if self.halted else "running",
            "next_state": self.intended,
            "status_msg": self.status_msg,
            "is_bid": self.is_bid,
            "dph_base": self.price,
            "dph_total": self.price + (self.disk_per_hour if faults.dph_total_includes_disk else 0),
            "storage_total_cost": self.disk_per_hour,
            "start_date": self.created_at,
            "end_date": end_date,
            "time_remaining": "",
            "duration": end_date - now,
            "disk_space": self.disk,
            "disk_usage": 0.0,
            "image_uuid": self.image,
            "image_runtype": self.runtype,
            "image_args": self.args or [],
            "onstart": self.onstart,
            "extra_env": [[name, value] for name, value in shown_env.items()],
            "jupyter_token": f"jupyter-{self.id}",
            "ssh_host": "127.0.0.1" if running else None,
            "ssh_port": self.ssh_port if running else None,
            "public_ipaddr": "127.0.0.1",
            "ports": {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(self.ssh_port)}]} if running else None,  # noqa: S104
            "gpu_util": 90.0 if running else None,
        }
        return {name: value for name, value in row.items() if name not in faults.missing_fields}

    def summary(self) -> dict[str, Any]:
        """What another process may know of it: no keys, no environment."""
        names = ("id", "label", "state", "is_bid", "price", "disk", "created_at", "ended_at", "outbid", "offline")
        return {name: getattr(self, name) for name in names} | {
            "live": self.live,
            "intended": self.intended,
            "status_msg": self.status_msg,
            "offer_id": self.offer.id,
            "machine_id": self.offer.machine_id,
            "starts": self.starts,
            "exit_code": self.exit_code,
            "pgid": self.pgid,
            "processes": self.processes(),
            "folder": str(self.folder),
            "log_path": str(self.log_path),
        }
