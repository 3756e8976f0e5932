"""RunPod's catalog: which of its GPUs is meant by a name, and what it has of them as offers."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tasks.services.rental.provider import MachineSpec, NoOffer, Offer, UnknownOutcome
from tasks.services.rental.providers.runpod_answers import machine_id

DISK_USD_PER_GB_MONTH = 0.1
"""Of a container's disk, by RunPod's page of prices (2026-08): the catalog does not name it."""
MAKERS = {"nvidia", "amd", "geforce", "instinct"}
STOCKS = ("HIGH", "MEDIUM", "LOW")
NEAREST = 3


@dataclass(frozen=True)
class GpuType:
    """One row of the catalog, as far as it is of use."""

    id: str
    name: str
    usd_per_hour: float
    """Of one GPU, in the cloud that was asked for."""
    most: int
    places: tuple[tuple[str, str], ...]
    """Data centers that have it, and how much; no name where only the cloud as a whole is known to have it."""
    cuda: tuple[str, ...]
    """Versions that a machine with free GPUs has."""


def types_in(catalog: Mapping[str, Any], cloud: str) -> list[GpuType]:
    """The types of a catalog. Raises UnknownOutcome where none of its rows can be read."""
    rows = catalog.get("gpus")
    if not isinstance(rows, list):
        raise UnknownOutcome("RunPod answered a search with something that is no list of GPUs")
    found = [known for row in rows if (known := _type(row, cloud)) is not None]
    if rows and not found:
        raise UnknownOutcome("RunPod answered a search with something that is no list of GPUs")
    return found


def named(types: Sequence[GpuType], typed: str) -> GpuType | None:
    """The type that a person means by RTX_4090 or A100_SXM4; None where it is none of these.

    Its name or its id, without its maker; or else the only one that has all the words. Raises NoOffer for several.
    """
    words = _words(typed)
    same = [one for one in types if words in (_words(one.name), _words(one.id))]
    if same:
        return same[0]
    holding = [one for one in types if words and set(words) <= {*_words(one.name), *_words(one.id)}]
    if len(holding) > 1:
        raise NoOffer(f"--gpu {typed}: RunPod has several; choose one of {', '.join(as_typed(one) for one in holding)}")
    return holding[0] if holding else None


def unknown(types: Sequence[GpuType], typed: str) -> NoOffer:
    """What to say of a name that is none of these."""
    names = {as_typed(one).lower(): as_typed(one) for one in types}
    near = difflib.get_close_matches("_".join(_words(typed)), list(names), NEAREST, 0.4) or sorted(names)[:NEAREST]
    return NoOffer(
        f"--gpu {typed}: RunPod has none of this name; the nearest are {', '.join(names[one] for one in near)}"
    )


def offers_of(one: GpuType, spec: MachineSpec, cloud: str) -> Iterator[tuple[int, Offer]]:
    """The offers of a type, each with its place in the order of stocks."""
    if spec.num_gpus > one.most:
        return
    for place, stock in one.places:
        number = machine_id(cloud, place, one.id)
        price = round(one.usd_per_hour * spec.num_gpus, 6)
        yield (
            STOCKS.index(stock),
            Offer(number, number, one.name, spec.num_gpus, price, place or cloud.lower(), None, DISK_USD_PER_GB_MONTH),
        )


def with_cuda(offer: Offer, one: GpuType, least: float) -> Offer:
    """The offer with the oldest CUDA that its driver may support: the order demands no newer one."""
    versions = [float(version) for version in one.cuda if float(version) >= least]
    return replace(offer, cuda=min(versions, default=least))


def as_typed(one: GpuType) -> str:
    """Its name as it is given on the command line."""
    return "_".join(one.name.split())


def _type(row: object, cloud: str) -> GpuType | None:
    if not isinstance(row, Mapping) or not isinstance(row.get("id"), str) or not isinstance(row.get("name"), str):
        return None
    price, most = _number(row, "price", cloud), _number(row, "maxCount", cloud)
    if price is None or most is None:
        return None
    cuda = tuple(
        str(one.get("version"))
        for one in _rows(row.get("cudaVersions"))
        if one.get("available") is True and re.fullmatch(r"\d+\.\d+", str(one.get("version")))
    )
    places = [
        (str(one["id"]), str(one["availability"]))
        for one in _rows(row.get("dataCenters"))
        if one.get("availability") in STOCKS and one.get("id")
    ]
    if not places and row.get("availability") in STOCKS:
        places = [("", str(row["availability"]))]
    return GpuType(row["id"], row["name"], price, int(most), tuple(places), cuda)


def _number(row: Mapping[str, Any], name: str, cloud: str) -> float | None:
    found = row.get(name)
    value = found.get(cloud.lower()) if isinstance(found, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _rows(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _words(name: str) -> tuple[str, ...]:
    return tuple(word for word in re.split(r"[\W_]+", name.lower()) if word and word not in MAKERS)
