"""What a host says of itself, and why it does not fit what is wanted."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.services.rental.provider import Instance, MachineSpec
from tasks.services.rental.providers.ssh.hosts import Host
from ups_models.wording import plain

CPU = "cpu"
"""What a run holds that trains on no GPU."""
KB_PER_GB, MIB_PER_GB = 1e9 / 1024, 1e9 / 1024**2


@dataclass(frozen=True)
class Gpu:
    """One GPU: the name that nvidia-smi tells it by, and what it is."""

    uuid: str
    memory_gb: float
    name: str


@dataclass(frozen=True)
class Facts:
    """The answer of a host to `probe`."""

    user: str = ""
    owner: str = ""
    """Whose folder ~/.ups is, where it is not the user's own."""
    disk_gb: float = 0.0
    ram_gb: float = 0.0
    python: str = ""
    missing: tuple[str, ...] = ()
    kills_at_logout: bool = False
    cuda: float | None = None
    gpus: tuple[Gpu, ...] = ()
    busy: frozenset[str] = frozenset()
    """GPUs that some process computes on, whoever's it is."""
    held: tuple[tuple[str, str], ...] = ()
    """User and GPU of every run of ours there."""

    @classmethod
    def parse(cls, text: str) -> Facts:
        """Line by line: a word, and what it says."""
        rows = [line.partition(" ")[::2] for line in text.splitlines()]
        said = {word: rest.strip() for word, rest in reversed(rows)}
        cards = [rest.split(", ", 2) for word, rest in rows if word == "gpu"]
        held = [rest.partition(" ")[::2] for word, rest in rows if word == "held"]
        return cls(
            user=said.get("user", ""),
            owner=said.get("owner", ""),
            disk_gb=_number(said.get("disk_kb")) / KB_PER_GB,
            ram_gb=_number(said.get("ram_kb")) / KB_PER_GB,
            python=said.get("python", ""),
            missing=tuple(rest for word, rest in rows if word == "missing"),
            kills_at_logout="kills" in said,
            cuda=_number(said.get("cuda")) or None,
            gpus=tuple(Gpu(one[0], _number(one[1]) / MIB_PER_GB, one[2]) for one in cards if len(one) == 3),
            busy=frozenset(rest for word, rest in rows if word == "busy"),
            held=tuple((user, what) for user, all_of_it in held for what in all_of_it.split(",")),
        )

    def free(self, spec: MachineSpec) -> list[Gpu]:
        """The GPUs that nobody uses, and that have the memory that is wanted."""
        taken = self.busy | {what for _, what in self.held}
        return [gpu for gpu in self._large(spec) if gpu.uuid not in taken]

    def _large(self, spec: MachineSpec) -> list[Gpu]:
        return [gpu for gpu in self.gpus if gpu.memory_gb >= spec.gpu_ram_gb]

    def fault(self, spec: MachineSpec) -> str:
        """Why nothing can be started there, and what to do about it; empty where it can."""
        if self.owner:
            return f"~/.ups is {self.owner}'s, and {self.user} cannot write it: log in as somebody else, or remove it"
        if self.missing:
            return f"has no {self.missing[0]}; install util-linux and coreutils"
        if self.kills_at_logout:
            return "ends every process when its user logs out; have KillUserProcesses=no set in its logind.conf"
        if not self.python:
            return (
                "has no Python 3.11 or newer that can make environments; install uv there, or python3-venv, or link "
                "~/.ups/python to one"
            )
        return self._too_small(spec) or (self._fault_of_gpus(spec) if spec.needs_gpu else self._who_computes())

    def _too_small(self, spec: MachineSpec) -> str:
        if self.disk_gb < spec.disk_gb:
            return (
                f"has {self.disk_gb:.1f} GB free of the {spec.disk_gb:g} wanted; free some, link ~/.ups to a larger "
                "disk, or lower --disk"
            )
        if self.ram_gb < spec.ram_gb:
            return f"has {self.ram_gb:.1f} GB of memory, and {spec.ram_gb:g} are wanted; name another, or lower --ram"
        return ""

    def _fault_of_gpus(self, spec: MachineSpec) -> str:
        if len(self.gpus) < spec.num_gpus:
            found = f"{len(self.gpus)} GPUs" if self.gpus else "no GPU that nvidia-smi shows"
            return f"has {found}; name another, or train on its processor: --set runtime.device=cpu"
        if len(self._large(spec)) < spec.num_gpus:
            largest = max(gpu.memory_gb for gpu in self.gpus)
            return f"its largest GPU has {largest:.0f} GB, and {spec.gpu_ram_gb:g} are wanted; lower --gpu-ram"
        if len(self.free(spec)) < spec.num_gpus:
            who = sorted({f"a run of {plain(user)}" for user, what in self.held if what != CPU}) or ["another program"]
            return f"its GPUs are in use by {' and '.join(who)}; wait, or name another"
        return ""

    def _who_computes(self) -> str:
        who = [plain(user) for user, what in self.held if what == CPU]
        return f"a run of {who[0]} occupies it; wait, or name another" if who else ""


def instances_in(host: Host, text: str) -> list[Instance]:
    """The instances of a host's answer; one whose machine was started anew under it is none any more."""
    rows = [line.split(" ", 4) for line in text.splitlines() if line.startswith("instance ")]
    return [_instance(host, *row[1:]) for row in rows if len(row) == 5 and row[2] != "gone"]


def _instance(host: Host, number: str, state: str, usd: str, label: str) -> Instance:
    is_living, code = state == "living", state.partition(":")[2]
    detail = "" if is_living else f"ended with exit code {code}" if code != "none" else "was killed"
    return Instance(
        instance_id(host, number), host.name, label, "running" if is_living else "failed", detail, False, _number(usd)
    )


def instance_id(host: Host, number: str) -> str:
    """How an instance is told from all others."""
    return f"{host.name}-{number}"


def _number(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0
