"""This machine as a provider: the same bootstrap in a process group of its own, so the remote path needs no account."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tasks.services.rental.provider import Instance, MachineSpec, NoSuchInstance, Offer, ProviderError
from tasks.services.run import environment
from ups_models.files import write_text
from ups_models.reading import parse_json, read_text
from ups_models.wording import first_line

MARK = "UPS_LOCAL_INSTANCE"
KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
"""What an instance sees of this machine's environment."""
GONE_WITHIN_S, LOG_BYTES = 10.0, 8000


class LocalProvider:
    """Instances are folders under `root`, each with a record and a process group; they cost nothing."""

    supports_bids = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self.children: list[subprocess.Popen[bytes]] = []

    @classmethod
    def for_run(cls, run_dir: Path) -> Self:
        """The factory of the registry: the instances lie in the run directory."""
        return cls(run_dir / "instances")

    def search(self, spec: MachineSpec) -> list[Offer]:
        """This machine."""
        return [Offer("1", "1", spec.gpus[0], spec.num_gpus, 0.0, "here")]

    def rent(self, offer: Offer, spec: MachineSpec, *, label: str, onstart: str, env: Mapping[str, str]) -> str:
        """Start the bootstrap."""
        number = 1 + max((int(path.name) for path in self._folders()), default=0)
        folder = self.root / str(number)
        home = folder / "home"
        home.mkdir(parents=True)
        script = folder / "onstart.sh"
        script.write_text(onstart, encoding="utf-8")
        write_text(folder / "instance.json", json.dumps({"label": label}))
        with (folder / "log").open("ab") as log:
            child = subprocess.Popen(
                ["bash", str(script)],
                cwd=home,
                env={**environment.selected(KEPT), **env, "HOME": str(home), MARK: str(folder.resolve())},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.children.append(child)
        return str(number)

    def describe(self, instance_id: str) -> Instance | None:
        """Running while any process of it lives; then gone."""
        folder = self.root / instance_id
        if not self._processes(folder):
            return None
        try:
            label = str(parse_json(read_text(folder / "instance.json", follow_links=False))["label"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ProviderError(
                f"{folder / 'instance.json'}: holds no label ({first_line(error)}); destroy it"
            ) from None
        return Instance(instance_id, "1", label, "running", "", False, 0.0)

    def list_instances(self, prefix: str) -> list[Instance]:
        """Those that run."""
        found = [self.describe(folder.name) for folder in self._folders()]
        return [one for one in found if one is not None and one.label.startswith(prefix)]

    def logs(self, instance_id: str) -> str:
        """What the bootstrap wrote, as whole lines."""
        path = self.root / instance_id / "log"
        if not path.is_file():
            return ""
        text = path.read_bytes()
        end = text[-LOG_BYTES:] if len(text) <= LOG_BYTES else text[-LOG_BYTES:].partition(b"\n")[2]
        return end.decode("utf-8", "replace")

    def destroy(self, instance_id: str) -> None:
        """Kill every process of it; the folder stays, for its log."""
        folder, deadline = self.root / instance_id, time.monotonic() + GONE_WITHIN_S
        while processes := self._processes(folder):
            if time.monotonic() > deadline:
                raise ProviderError(f"instance {instance_id}: processes {processes} do not end; stop them by hand")
            for pid in processes:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)

    def has_account_variable(self, name: str) -> bool:
        """No variable is handed on by itself."""
        return False

    def ssh_address(self, instance_id: str) -> None:
        """There is none: it is this machine. Raises NoSuchInstance."""
        if self.describe(instance_id) is None:
            raise NoSuchInstance(f"instance {instance_id}: is not running here; `ups instances` lists them")

    def _folders(self) -> list[Path]:
        return [path for path in self.root.glob("[0-9]*") if path.name.isdecimal()]

    def _processes(self, folder: Path) -> list[int]:
        for child in self.children:
            child.poll()  # so that one that has ended is no zombie
        return marked_processes(f"{MARK}={folder.resolve()}")


def marked_processes(variable: str) -> list[int]:
    """Living processes that were started with this `NAME=value` in their environment."""
    mark, found = f"{variable}\0".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            zombie = (process / "stat").read_text("utf-8").rpartition(")")[2].split()[0] == "Z"
            if not zombie and mark in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:  # it ended while we looked, or is another user's
            continue
    return found
