"""The market of the emulated Vast.ai: offers, and the query language that finds them."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

Row = dict[str, Any]

DAY_S = 86400.0
NOT_FILTERS = {"order", "type", "limit", "allocated_storage", "disable_bundling"}
OFFER_TYPES = {"on-demand", "ask", "reserved", "bid"}


class BadQuery(ValueError):
    """A search that the server does not understand."""


@dataclass
class Offer:
    """One ask on the market; prices in USD per hour, storage in USD per GB and month, speeds in Mbit/s."""

    id: int
    machine_id: int
    host_id: int = 1
    gpu_name: str = "RTX 4090"
    num_gpus: int = 1
    gpu_ram: int = 24564  # MB, per GPU
    dph_total: float = 0.4
    min_bid: float = 0.15
    storage_cost: float = 0.15
    disk_space: float = 200.0  # GB
    cuda_max_good: float = 12.8
    compute_cap: int = 890
    driver_version: str = "570.86.15"
    reliability: float = 0.99
    geolocation: str = "DE"
    inet_down: float = 500.0
    inet_up: float = 300.0
    inet_down_cost: float = 0.0
    inet_up_cost: float = 0.0
    duration: float = 30 * DAY_S  # seconds until the host wants the machine back
    rentable: bool = True
    verified: bool = True
    external: bool = False
    datacenter: bool = False
    static_ip: bool = True
    direct_port_count: int = 16
    cpu_cores: int = 32
    cpu_cores_effective: float = 16.0
    cpu_ram: int = 64000  # MB
    cpu_ghz: float = 3.5
    cpu_arch: str = "amd64"
    gpu_arch: str = "nvidia"
    gpu_frac: float = 1.0
    disk_bw: float = 2000.0
    pcie_bw: float = 20.0
    pci_gen: float = 4.0
    gpu_mem_bw: float = 900.0
    bw_nvlink: float = 0.0
    gpu_max_power: float = 450.0
    gpu_max_temp: float = 90.0
    gpu_display_active: bool = False
    has_avx: int = 1
    dlperf: float = 100.0
    total_flops: float = 82.0
    mobo_name: str = "emulated"
    ubuntu_version: str = "22.04"
    vms_enabled: bool = False
    cluster_id: int | None = None

    def row(self, *, rented: bool) -> Row:
        """The offer as a search answers it."""
        return asdict(self) | {
            "ask_contract_id": self.id,
            "rented": rented,
            "rentable": self.rentable and not rented,
            "reliability2": self.reliability,
            "verification": "verified" if self.verified else "unverified",
            "hosting_type": int(self.datacenter),
            "gpu_total_ram": self.gpu_ram * self.num_gpus,
            "dph_base": self.dph_total,
            "dlperf_per_dphtotal": self.dlperf * self.num_gpus / self.dph_total,
            "flops_per_dphtotal": self.total_flops * self.num_gpus / self.dph_total,
            "score": self.reliability * self.dlperf * self.num_gpus / self.dph_total,
        }


DEFAULT_MARKET: list[Row] = [
    {"gpu_name": "RTX 4090", "dph_total": 0.40, "min_bid": 0.15, "geolocation": "DE"},
    {"gpu_name": "RTX 4090", "dph_total": 0.44, "min_bid": 0.18, "geolocation": "NL", "reliability": 0.995},
    {"gpu_name": "RTX 4090", "dph_total": 0.36, "min_bid": 0.12, "geolocation": "US", "reliability": 0.85},
    {"gpu_name": "RTX 4090", "dph_total": 0.38, "min_bid": 0.14, "geolocation": "PL", "cuda_max_good": 12.2},
    {"gpu_name": "RTX 4090", "dph_total": 0.39, "min_bid": 0.13, "geolocation": "SE", "inet_down": 60.0},
    {"gpu_name": "RTX 4090", "dph_total": 0.35, "min_bid": 0.11, "geolocation": "CN", "verified": False},
    {"gpu_name": "RTX 4090", "dph_total": 0.37, "min_bid": 0.12, "geolocation": "FR", "duration": 3600.0},
    {"gpu_name": "RTX 4090", "num_gpus": 2, "dph_total": 0.82, "min_bid": 0.33, "geolocation": "DE"},
    {"gpu_name": "RTX 3090", "dph_total": 0.20, "min_bid": 0.08, "geolocation": "FR", "compute_cap": 860},
    {
        "gpu_name": "A100 SXM4",
        "gpu_ram": 81920,
        "dph_total": 1.10,
        "min_bid": 0.60,
        "geolocation": "US",
        "compute_cap": 800,
    },
    {
        "gpu_name": "H100 SXM",
        "gpu_ram": 81559,
        "dph_total": 2.20,
        "min_bid": 1.40,
        "geolocation": "US",
        "compute_cap": 900,
    },
    {
        "gpu_name": "H100 SXM",
        "gpu_ram": 81559,
        "num_gpus": 8,
        "dph_total": 17.6,
        "min_bid": 11.0,
        "geolocation": "US",
        "compute_cap": 900,
        "disk_space": 2000.0,
    },
]


def alike(value: Any, wanted: Any) -> Any:
    """`wanted` as the type of `value`: the SDK sends numbers of a query as text."""
    if isinstance(value, bool) and isinstance(wanted, str):
        return wanted.lower() == "true"
    if isinstance(value, int | float) and isinstance(wanted, str):
        try:
            return float(wanted)
        except ValueError as error:
            raise BadQuery(f"{wanted!r} is not a number") from error
    return wanted


def one_of(value: Any, wanted: list[Any]) -> bool:
    """Whether value is in the list; a place is also known by its two letters of a country."""
    return any(value == alike(value, one) or (isinstance(value, str) and value[-2:] == one) for one in wanted)


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda value, wanted: bool(value == alike(value, wanted)),
    "neq": lambda value, wanted: bool(value != alike(value, wanted)),
    "gt": lambda value, wanted: value is not None and bool(value > alike(value, wanted)),
    "gte": lambda value, wanted: value is not None and bool(value >= alike(value, wanted)),
    "lt": lambda value, wanted: value is not None and bool(value < alike(value, wanted)),
    "lte": lambda value, wanted: value is not None and bool(value <= alike(value, wanted)),
    "in": one_of,
    "notin": lambda value, wanted: not one_of(value, wanted),
    "nin": lambda value, wanted: not one_of(value, wanted),
}


def matches(row: Row, filters: Mapping[str, Any]) -> bool:
    """Whether a row satisfies every clause {field: {operator: value}}."""
    for name, clause in filters.items():
        if name not in row:
            raise BadQuery(f"unknown field {name!r}")
        for operator, wanted in clause.items() if isinstance(clause, dict) else [("eq", clause)]:
            if operator not in OPERATORS:
                raise BadQuery(f"unknown operator {operator!r}")
            try:
                fits = OPERATORS[operator](row[name], wanted)
            except TypeError as error:
                raise BadQuery(f"{name} {operator} {wanted!r}: {error}") from error
            if not fits:
                return False
    return True


def ordered(rows: list[Row], order: list[list[str]]) -> list[Row]:
    """Rows by [[field, "asc" | "desc"], ...], the first field weighing most."""
    for name, direction in reversed(order):
        if any(name not in row for row in rows):
            raise BadQuery(f"unknown field {name!r}")
        rows = sorted(rows, key=lambda row: (row[name] is not None, row[name]), reverse=direction == "desc")
    return rows


def search(rows: list[Row], query: Mapping[str, Any]) -> list[Row]:
    """The rows that a search body asks for."""
    filters = {name: clause for name, clause in query.items() if name not in NOT_FILTERS}
    found = [row for row in rows if matches(row, filters)]
    return ordered(found, query.get("order") or [])[: query.get("limit") or 64]
