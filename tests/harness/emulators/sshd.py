"""Real sshd on loopback: machines of one's own, each with a name, a home, a PATH and a host key; they can fail."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from harness.ports import free_port

MARK = "UPS_SSH_INSTANCE"
BINARY = "/usr/sbin/sshd"
INSTALL = "apt-get install openssh-server"
PRIVILEGE_SEPARATION = Path("/run/sshd")
WITHIN_S = 20.0
CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {root}/host_key
PidFile {root}/sshd.pid
AuthorizedKeysFile {root}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
MaxStartups 100
SetEnv HOME={root}/home PATH={root}/bin:/usr/local/bin:/usr/bin:/bin {more}
"""
GPU = """#!/bin/sh
case "$*" in
  *compute-apps*) cat "{root}/busy" 2> /dev/null ;;
  *query-gpu*) cat "{root}/gpus" ;;
  *) echo "| NVIDIA-SMI 555.42    Driver Version: 555.42    CUDA Version: 12.5     |" ;;
esac
"""
CUT = """#!/bin/bash
# Does what it is asked, and loses the connection before the answer: once.
if [[ -f "{root}/cut" ]]; then
  rm -f "{root}/cut"
  /bin/bash "$@" > /dev/null
  kill -KILL "$(ps -o ppid= "$PPID" | tr -d ' ')" "$PPID"
else
  exec /bin/bash "$@"
fi
"""
UNAME = """#!/bin/sh
if [ "$*" = -n ]; then echo {name}; else exec /bin/uname "$@"; fi
"""
SLOW = """#!/bin/sh
sleep {seconds}
exec /bin/bash "$@"
"""


class SshHost:
    """One sshd; runs that it started live on without it, until `clean`."""

    def __init__(self, root: Path, name: str, key: Path, more: str = "") -> None:
        self.root, self.name, self.key, self.more = root, name, key, more
        self.home, self.bin = root / "home", root / "bin"
        self.daemon: subprocess.Popen[bytes] | None = None
        for folder in (self.home, self.bin):
            folder.mkdir(parents=True)
        self.port = free_port()
        self.program("uname", UNAME.format(name=f"{name}-{self.port}"))
        self.change_key()
        self.accept()

    def change_key(self) -> None:
        """Another host key, as after an installation; shown after the next start."""
        make_key(self.root / "host_key")

    def accept(self) -> None:
        """Let the user's key in."""
        shutil.copyfile(self.key.with_suffix(".pub"), self.root / "authorized_keys")

    def refuse(self) -> None:
        """Let no key in."""
        (self.root / "authorized_keys").write_text("", encoding="utf-8")

    def has_gpus(self, *names: str, busy: tuple[int, ...] = ()) -> None:
        """Show these GPUs, as nvidia-smi does; on some of them another program computes, a desktop on all."""
        rows = "".join(f"GPU-{number}, 24576, {name}\n" for number, name in enumerate(names))
        (self.root / "gpus").write_text(rows, encoding="utf-8")
        used = "".join(f"GPU-{number}, {8000 if number in busy else 200}\n" for number in range(len(names)))
        (self.root / "busy").write_text(used, encoding="utf-8")
        self.program("nvidia-smi", GPU.format(root=self.root))

    def has_disk(self, free_gb: int) -> None:
        """Have so much of it free, in GB, whatever is."""
        self.program("df", f"#!/bin/sh\necho\necho / 1 1 {free_gb * 1_000_000} 1 /\n")

    def cut_next(self) -> None:
        """Lose the connection once the next question is carried out."""
        (self.root / "cut").touch()
        self.program("bash", CUT.format(root=self.root))

    def slow(self, seconds: float) -> None:
        """Take so long for every answer."""
        self.program("bash", SLOW.format(seconds=seconds))

    def program(self, name: str, text: str) -> None:
        """Put a program into its PATH, before all others."""
        (self.bin / name).write_text(text, encoding="utf-8")
        (self.bin / name).chmod(0o755)

    def use_python(self, path: str) -> None:
        """Choose the interpreter whose packages runs may use."""
        (self.home / ".ups").mkdir(mode=0o700, exist_ok=True)
        (self.home / ".ups" / "python").symlink_to(path)

    def start(self) -> None:
        """Take logins."""
        config = self.root / "sshd_config"
        config.write_text(CONFIG.format(port=self.port, root=self.root, more=self.more), encoding="utf-8")
        with (self.root / "sshd.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [BINARY, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + WITHIN_S
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"sshd does not start: {(self.root / 'sshd.log').read_text('utf-8')}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Take no logins, and cut the connections that there are."""
        if self.daemon is None:
            return
        sessions = children_of(self.daemon.pid)
        self.daemon.kill()
        self.daemon.wait()
        for session in sessions:
            with suppress(ProcessLookupError):
                os.kill(session, signal.SIGKILL)
        self.daemon = None

    def living(self) -> list[int]:
        """Every process of every run on it."""
        mark = f"{MARK}={self.home}/".encode()
        return [pid for pid, environ in _environments() if any(one.startswith(mark) for one in environ.split(b"\0"))]

    def reboot(self) -> None:
        """All that runs on it ends at once, and what has run there belongs to an earlier start."""
        self.kill_all()
        for path in self.home.glob(".ups/*/instances/*/label"):
            label, usd, _ = path.read_text("utf-8").splitlines()
            path.write_text(f"{label}\n{usd}\nan earlier start\n", encoding="utf-8")

    def kill_all(self) -> None:
        """All that runs on it ends, at once."""
        deadline = time.monotonic() + WITHIN_S
        while (pids := self.living()) and time.monotonic() < deadline:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def logs(self) -> list[str]:
        """What its runs wrote."""
        found = sorted(self.home.glob(".ups/*/instances/*/log"))
        return [path.read_text("utf-8", errors="replace") for path in found]


class Lan:
    """A user's key and ssh configuration, and the hosts in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.root.mkdir(parents=True)
        self.key = root / "id"
        make_key(self.key)
        self.hosts: dict[str, SshHost] = {}

    @property
    def config(self) -> Path:
        """The file that stands in for ~/.ssh/config."""
        return self.root / "config"

    def add(self, name: str, more: str = "") -> SshHost:
        """One more host, known and taking logins."""
        host = self.hosts[name] = SshHost(self.root / name, name, self.key, more)
        host.start()
        self.trust(*self.hosts.values())
        return host

    def trust(self, *hosts: SshHost) -> None:
        """Know these hosts by their keys of now, and no others."""
        keys = [(host.root / "host_key.pub").read_text("utf-8").split()[:2] for host in hosts]
        rows = [f"[127.0.0.1]:{host.port} {' '.join(key)}\n" for host, key in zip(hosts, keys, strict=True)]
        (self.root / "known_hosts").write_text("".join(rows), encoding="utf-8")
        self.config.write_text("".join(map(self._entry, self.hosts.values())), encoding="utf-8")

    def _entry(self, host: SshHost) -> str:
        return (
            f"Host {host.name}\n  HostName 127.0.0.1\n  Port {host.port}\n  User {getpass.getuser()}\n"
            f"  IdentityFile {self.key}\n  IdentitiesOnly yes\n  UserKnownHostsFile {self.root}/known_hosts\n"
        )

    def clean(self) -> None:
        """Leave no sshd and no run."""
        for host in self.hosts.values():
            host.stop()
            host.reboot()


@contextmanager
def lan(root: Path) -> Iterator[Lan]:
    """A network of one's own; the test is skipped, and says so, where no sshd is installed."""
    if not Path(BINARY).exists() or shutil.which("ssh") is None:
        pytest.skip(f"{BINARY} or ssh is not installed; {INSTALL}")
    if os.getuid() == 0:
        PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
    net = Lan(root)
    try:
        yield net
    finally:
        net.clean()


def make_key(path: Path) -> None:
    """A new pair, in the place of another."""
    path.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def children_of(pid: int) -> list[int]:
    """All processes below one, the whole tree."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents.setdefault(int(stat.read_text("utf-8").rpartition(")")[2].split()[1]), []).append(
                int(stat.parent.name)
            )
    found = list(parents.get(pid, []))
    for child in found:
        found += parents.get(child, [])
    return found


def _environments() -> Iterator[tuple[int, bytes]]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z":
                yield int(process.name), (process / "environ").read_bytes()
