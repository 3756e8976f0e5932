"""The stock of the emulated RunPod: which GPUs its data centers have, at which price, and the catalog of them."""

from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Gpu:
    """One type of GPU; prices in USD per GPU and hour, by cloud."""

    id: str
    name: str
    memory: int  # GB
    secure: float
    community: float
    manufacturer: str = "NVIDIA"
    most: int = 8


@dataclass
class Shelf:
    """GPUs of one type in one data center."""

    gpu: str
    data_center: str
    country: str
    free: int = 4
    cloud: str = "SECURE"
    cuda: tuple[str, ...] = ("12.8",)

    @property
    def id(self) -> str:
        """What tells it from the others."""
        return f"{self.cloud}/{self.data_center}/{self.gpu}"


GPUS = (
    Gpu("NVIDIA GeForce RTX 4090", "RTX 4090", 24, 0.44, 0.31),
    Gpu("NVIDIA GeForce RTX 3090", "RTX 3090", 24, 0.27, 0.19),
    Gpu("NVIDIA L4", "L4", 24, 0.32, 0.26),
    Gpu("NVIDIA RTX A5000", "RTX A5000", 24, 0.29, 0.2),
    Gpu("NVIDIA A100 80GB PCIe", "A100 PCIe", 80, 1.44, 1.19),
    Gpu("NVIDIA A100-SXM4-80GB", "A100 SXM", 80, 1.69, 1.39),
    Gpu("NVIDIA H100 PCIe", "H100 PCIe", 80, 2.39, 1.99),
    Gpu("NVIDIA H100 80GB HBM3", "H100 SXM", 80, 2.69, 2.5),
    Gpu("AMD Instinct MI300X OAM", "MI300X", 192, 2.49, 2.2, manufacturer="AMD"),
)
DEFAULT_STOCK: tuple[Row, ...] = (
    {"gpu": "NVIDIA GeForce RTX 4090", "data_center": "EU-RO-1", "country": "RO", "free": 6, "cuda": ("12.4", "12.8")},
    {"gpu": "NVIDIA GeForce RTX 4090", "data_center": "US-KS-2", "country": "US", "free": 2},
    {"gpu": "NVIDIA GeForce RTX 4090", "data_center": "US-TX-3", "country": "US", "free": 1, "cuda": ("12.2", "12.8")},
    {"gpu": "NVIDIA GeForce RTX 4090", "data_center": "EU-CZ-1", "country": "CZ", "free": 0},
    {"gpu": "NVIDIA GeForce RTX 4090", "data_center": "CA-MTL-1", "country": "CA", "free": 4, "cuda": ("11.8",)},
    {"gpu": "NVIDIA GeForce RTX 4090", "data_center": "EU-SE-1", "country": "SE", "free": 4, "cloud": "COMMUNITY"},
    {"gpu": "NVIDIA GeForce RTX 3090", "data_center": "EU-CZ-1", "country": "CZ"},
    {"gpu": "NVIDIA L4", "data_center": "EU-RO-1", "country": "RO"},
    {"gpu": "NVIDIA A100 80GB PCIe", "data_center": "US-KS-2", "country": "US", "free": 8},
    {"gpu": "NVIDIA A100-SXM4-80GB", "data_center": "US-KS-2", "country": "US", "free": 8},
    {"gpu": "NVIDIA H100 80GB HBM3", "data_center": "US-TX-3", "country": "US", "free": 8},
    {"gpu": "NVIDIA H100 PCIe", "data_center": "US-TX-3", "country": "US", "free": 2},
)


@dataclass(frozen=True)
class StockFilter:
    """What a question to the catalog, or an order, narrows the stock down to."""

    count: int = 1
    cloud: str = "SECURE"
    countries: tuple[str, ...] = ()
    data_centers: tuple[str, ...] = ()
    cuda: tuple[str, ...] = ()
    min_cuda: str = ""

    def versions(self, shelf: Shelf) -> list[str]:
        """The CUDA versions of a shelf that are wanted."""
        least = number(self.min_cuda) if self.min_cuda else ()
        return [one for one in shelf.cuda if number(one) >= least and (not self.cuda or one in self.cuda)]

    def of(self, shelves: list[Shelf], gpu: str) -> list[Shelf]:
        """The shelves of this type that could have it, empty ones too."""
        return [
            one
            for one in shelves
            if (one.gpu, one.cloud) == (gpu, self.cloud)
            and (not self.countries or one.country in self.countries)
            and (not self.data_centers or one.data_center in self.data_centers)
            and bool(self.versions(one))
        ]


def number(version: str) -> tuple[int, ...]:
    """A version as numbers: 12.11 is above 12.2."""
    return tuple(int(part) for part in version.split("."))


def level(free: int, count: int) -> str:
    """How available so many GPUs at once are."""
    times = free // count
    return "NONE" if times < 1 else "LOW" if times < 2 else "MEDIUM" if times < 4 else "HIGH"


def gpu_type(gpu: Gpu, shelves: list[Shelf], wanted: StockFilter | None) -> Row:
    """A row of the catalog; `wanted` where its availability is asked for."""
    clouds = {one.cloud for one in shelves if one.gpu == gpu.id}
    row: Row = {
        "id": gpu.id,
        "name": gpu.name,
        "pool": None,
        "manufacturer": gpu.manufacturer,
        "memory": gpu.memory,
        "secure": "SECURE" in clouds,
        "community": "COMMUNITY" in clouds,
        "price": {"secure": gpu.secure, "community": gpu.community},
        "maxCount": {"secure": gpu.most, "community": gpu.most},
    }
    if wanted is None:
        return row
    fitting = wanted.of(shelves, gpu.id)
    row["availability"] = level(max((one.free for one in fitting), default=0), wanted.count)
    places = [
        {
            "id": one.data_center,
            "name": one.data_center.replace("-", " "),
            "availability": level(one.free, wanted.count),
        }
        for one in fitting
    ]
    versions = sorted({version for one in fitting for version in wanted.versions(one)}, key=number)
    if any(place["availability"] != "NONE" for place in places):
        row["dataCenters"] = places
    if versions:
        free = {version for one in fitting if one.free >= wanted.count for version in wanted.versions(one)}
        row["cudaVersions"] = [{"version": version, "available": version in free} for version in versions]
    return row
