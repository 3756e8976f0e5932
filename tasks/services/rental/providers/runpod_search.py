"""A search on RunPod: which of its GPUs is meant by a name, the offers that fit, and what the nearest misses."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.services.rental.gpus import gpu_key
from tasks.services.rental.provider import MachineSpec, NoOffer, Offer, UnknownOutcome
from tasks.services.rental.providers.runpod_answers import machine_id
from ups_models.wording import plain

Ask = Callable[[Mapping[str, str]], Mapping[str, Any]]
"""Asks for the catalog with these parameters."""

SECURE, COMMUNITY = "SECURE", "COMMUNITY"
"""RunPod's own data centers, and machines of others."""
STOCKS = ("HIGH", "MEDIUM", "LOW")
DISK_USD_PER_GB_MONTH = 0.1
"""Of a container's disk, by RunPod's page of prices (2026-08): the catalog does not name it."""
NEAREST = 3


@dataclass(frozen=True)
class GpuType:
    """One row of the catalog, as far as it is of use."""

    id: str
    name: str
    memory_gb: float
    cloud: str
    usd_per_hour: float
    """Of one GPU."""
    most: int
    """In one machine."""
    places: tuple[tuple[str, str], ...]
    """Data centers that have it, and how much; no name where only the cloud as a whole is known to have it."""
    cuda: tuple[str, ...]
    """Versions that a machine with free GPUs has."""

    @property
    def key(self) -> str:
        """Its name as it is typed."""
        return gpu_key(self.name)

    def has_room(self, spec: MachineSpec) -> bool:
        """Whether it has the memory, and a machine so many of it."""
        return self.memory_gb >= spec.gpu_ram_gb and self.most >= spec.num_gpus


def fitting(spec: MachineSpec, ask: Ask) -> list[Offer]:
    """The offers under the price, cheapest first. Raises NoOffer, UnknownOutcome."""
    types = [one for cloud in clouds_of(spec) for one in _catalog(ask, _filters(spec, cloud), cloud)]
    found = [
        (round(one.usd_per_hour * spec.num_gpus, 6), STOCKS.index(stock), one, place)
        for one in _meant(types, spec)
        if one.has_room(spec)
        for place, stock in one.places
    ]
    if not found:
        raise NoOffer(f"RunPod has no {spec.name} that fits; {_nearest(spec, ask)}")
    found.sort(key=lambda row: row[:2])
    cheapest, most = found[0][0], spec.max_usd_per_hour
    if cheapest > most:
        raise NoOffer(
            f"RunPod has no {spec.name} under {most:g} USD/h: the cheapest is {cheapest:.3f} USD/h; "
            "raise --max-price, or choose another --gpu"
        )
    return [_offer(one, place, usd, spec) for usd, _, one, place in found if usd <= most]


def clouds_of(spec: MachineSpec) -> tuple[str, ...]:
    """Where to look: machines of others are neither tested nor in data centers of RunPod."""
    return (SECURE,) if spec.verified or spec.datacenter else (SECURE, COMMUNITY)


def named(types: Sequence[GpuType], typed: str) -> list[GpuType]:
    """The type that a person means by RTX_4090 or A100_SXM4, in each cloud; none where it is none of these.

    Its name or its id; or else the only one that has all the words. Raises NoOffer for several.
    """
    key = gpu_key(typed)
    if same := [one for one in types if key in (one.key, gpu_key(one.id))]:
        return same
    holding = [
        one for one in types if key and set(key.split("_")) <= {*one.key.split("_"), *gpu_key(one.id).split("_")}
    ]
    if len({one.id for one in holding}) > 1:
        raise NoOffer(f"--gpu {typed}: RunPod has several; choose from {', '.join(sorted({it.key for it in holding}))}")
    return holding


def version(cuda: float) -> str:
    """A CUDA version as the service writes it."""
    return f"{cuda:.1f}"


def _meant(types: Sequence[GpuType], spec: MachineSpec) -> list[GpuType]:
    return list(dict.fromkeys(one for typed in spec.gpus for one in named(types, typed)))


def _filters(spec: MachineSpec, cloud: str) -> dict[str, str]:
    countries = {"countryCodes": ",".join(spec.countries)} if spec.countries else {}
    return _stock(spec, cloud) | {"minCudaVersion": version(spec.min_cuda)} | countries


def _stock(spec: MachineSpec, cloud: str) -> dict[str, str]:
    return {"include": "AVAILABILITY", "product": "POD", "count": str(spec.num_gpus), "cloud": cloud}


def _catalog(ask: Ask, parameters: Mapping[str, str], cloud: str) -> list[GpuType]:
    """The types of a catalog. Raises UnknownOutcome where none of its rows can be read."""
    rows = ask(parameters).get("gpus")
    found = [known for row in _rows(rows) if (known := _type(row, cloud)) is not None]
    if not isinstance(rows, list) or (rows and not found):
        raise UnknownOutcome("RunPod answered a search with something that is no list of GPUs")
    return found


def _nearest(spec: MachineSpec, ask: Ask) -> str:
    """What to give up: what there is without the country and the CUDA, or else the nearest name of a GPU."""
    types = [one for cloud in clouds_of(spec) for one in _catalog(ask, _stock(spec, cloud), cloud)]
    meant = _meant(types, spec)
    if not meant:
        names = {one.key for one in types}
        near = difflib.get_close_matches(gpu_key(spec.gpus[0]), names, NEAREST, cutoff=0.5)
        return f"the nearest --gpu it has are {', '.join(near)}" if near else f"it has {', '.join(sorted(names))}"
    return "; ".join(_misses(one, spec) for one in meant)


def _misses(one: GpuType, spec: MachineSpec) -> str:
    what = f"{plain(one.key)} ({one.cloud.lower()})"
    if one.memory_gb < spec.gpu_ram_gb:
        return f"{what} has {one.memory_gb:g} GB (--gpu-ram)"
    if one.most < spec.num_gpus:
        return f"{what}: at most {one.most} in a machine (--num-gpus)"
    if not one.places:
        return f"{what}: none is free at the moment; choose another --gpu"
    where = ", ".join(plain(place) or "unknown places" for place, _ in one.places)
    cuda = ", ".join(one.cuda) or "unknown"
    region = " (--region)" if spec.countries else ""
    return f"{what} is free in {where}{region} with CUDA {cuda}; choose an --image for a CUDA below {spec.min_cuda}"


def _offer(one: GpuType, place: str, usd_per_hour: float, spec: MachineSpec) -> Offer:
    """The CUDA is the oldest that its driver may support: the order demands no newer one than the image's."""
    number = machine_id(one.cloud, place, one.id)
    cuda = min((float(known) for known in one.cuda if float(known) >= spec.min_cuda), default=spec.min_cuda)
    where = place or one.cloud.lower()
    return Offer(number, number, one.name, spec.num_gpus, usd_per_hour, where, cuda, DISK_USD_PER_GB_MONTH)


def _type(row: Mapping[str, Any], cloud: str) -> GpuType | None:
    price, most, memory = _number(row.get("price"), cloud), _number(row.get("maxCount"), cloud), row.get("memory")
    if not _is_name(row.get("id")) or not _is_name(row.get("name")) or price is None or most is None:
        return None
    cuda = [str(one.get("version")) for one in _rows(row.get("cudaVersions")) if one.get("available") is True]
    places = [
        (str(one["id"]), str(one["availability"]))
        for one in _rows(row.get("dataCenters"))
        if one.get("availability") in STOCKS and _is_name(one.get("id"))
    ]
    if not places and row.get("availability") in STOCKS:
        places = [("", str(row["availability"]))]
    return GpuType(
        row["id"],
        row["name"],
        float(memory) if isinstance(memory, int | float) else 0.0,
        cloud,
        price,
        int(most),
        tuple(places),
        tuple(one for one in cuda if re.fullmatch(r"\d+\.\d+", one)),
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable()


def _number(by_cloud: object, cloud: str) -> float | None:
    value = by_cloud.get(cloud.lower()) if isinstance(by_cloud, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _rows(value: object) -> Iterable[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
