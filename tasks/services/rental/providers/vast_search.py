"""A search on Vast.ai: the wishes as its query, the offers that fit, and what the nearest misses."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.services.rental.gpus import gpu_key
from tasks.services.rental.provider import MachineSpec, NoOffer, Offer, UnknownOutcome
from ups_models.wording import plain

Row = Mapping[str, Any]
Query = dict[str, Any]
Ask = Callable[[Query], object]
"""Sends a query; what the service answers."""

MB_PER_GB = 1000.0
NUMBERS = ("id", "machine_id", "num_gpus")
BID_MARGIN = 1.2
"""What is bid is what is paid: a little above the least bid, and never above the user's limit."""


@dataclass(frozen=True)
class Wish:
    """What a machine must have, in the service's words, and the flag that asks for it."""

    field: str
    operator: str
    value: Any
    flag: str

    def is_met(self, row: Row) -> bool:
        """Whether an offer has it; one that does not say has not."""
        has = row.get(self.field)
        if self.operator == "in":
            return isinstance(has, str) and has[-2:] in self.value
        if self.operator == "eq" or not isinstance(has, int | float):
            return bool(has == self.value)
        return bool(has >= self.value if self.operator == "gte" else has <= self.value)

    def miss(self, row: Row) -> str:
        """What an offer has instead."""
        has = row.get(self.field)
        words = f"{has:g}" if isinstance(has, int | float) else plain(str(has or "unknown"))
        return f"{self.field} {words} ({self.flag})"

    def shortfall(self, row: Row) -> float:
        """By how much an offer misses it, in that which was wished for; 1 where that is no number."""
        has = row.get(self.field)
        if self.operator in ("eq", "in") or not isinstance(has, int | float):
            return 1.0
        return float(abs(has - self.value) / max(abs(self.value), 1e-6))


def wishes_of(spec: MachineSpec) -> list[Wish]:
    """All that may be given up, but the price."""
    wishes = [
        Wish("disk_space", "gte", spec.disk_gb, "--disk"),
        Wish("cuda_max_good", "gte", spec.min_cuda, f"choose an --image for a CUDA below {spec.min_cuda}"),
        Wish("reliability", "gte", spec.reliability, "--reliability"),
        Wish("duration", "gte", spec.hours * 3600, "--max-hours"),
    ]
    if spec.verified:
        wishes.append(Wish("verified", "eq", True, "--no-verified"))
    if spec.datacenter:
        wishes.append(Wish("datacenter", "eq", True, "--datacenter"))
    if spec.gpu_ram_gb:
        wishes.append(Wish("gpu_ram", "gte", spec.gpu_ram_gb * MB_PER_GB, "--gpu-ram"))
    if spec.ram_gb:
        wishes.append(Wish("cpu_ram", "gte", spec.ram_gb * MB_PER_GB, "--ram"))
    if spec.inet_mbps:
        wishes.append(Wish("inet_down", "gte", spec.inet_mbps, "--bandwidth"))
    if spec.max_usd_per_tb is not None:
        wishes.append(Wish("inet_down_cost", "lte", spec.max_usd_per_tb / 1000.0, "--max-bandwidth-price"))
    if spec.countries:
        wishes.append(Wish("geolocation", "in", list(spec.countries), "--region"))
    return wishes


def fitting(spec: MachineSpec, ask: Ask) -> list[Offer]:
    """The offers under the price, cheapest first. Raises NoOffer, UnknownOutcome."""
    price = "min_bid" if spec.interruptible else "dph_total"
    kind = "bid" if spec.interruptible else "on-demand"
    wishes = wishes_of(spec)
    priced = _priced(ask(_query(spec, wishes)), price)
    if not priced:
        raise NoOffer(f"Vast.ai has no {spec.name} ({kind}) that fits; {_nearest(spec, wishes, price, ask)}")
    most = spec.max_usd_per_hour
    if priced[0][0] > most:
        raise NoOffer(
            f"Vast.ai has no {spec.name} ({kind}) under {most:g} USD/h: the cheapest is {priced[0][0]:.3f} USD/h; "
            "raise --max-price, or choose another --gpu"
        )
    margin = BID_MARGIN if spec.interruptible else 1.0
    return [_offer(row, min(most, margin * usd), is_bid=spec.interruptible) for usd, row in priced if usd <= most]


def _query(spec: MachineSpec, wishes: Sequence[Wish], *, any_gpu: bool = False) -> Query:
    query: Query = {"num_gpus": {"eq": spec.num_gpus}, "rentable": {"eq": True}, "rented": {"eq": False}}
    if not any_gpu:
        names = [gpu.replace("_", " ") for gpu in spec.gpus]
        query["gpu_name"] = {"eq": names[0]} if len(names) == 1 else {"in": names}
    return query | {wish.field: {wish.operator: wish.value} for wish in wishes}


def _nearest(spec: MachineSpec, wishes: Sequence[Wish], price: str, ask: Ask) -> str:
    """What to give up: the offer that misses least, or else the nearest name of a GPU."""
    rows = _priced(ask(_query(spec, ())), price)
    if rows:

        def distance(priced: tuple[float, Row]) -> tuple[int, float, float]:
            missed = [wish.shortfall(priced[1]) for wish in wishes if not wish.is_met(priced[1])]
            return len(missed), sum(missed), priced[0]

        usd, row = min(rows, key=distance)
        misses = ", ".join(wish.miss(row) for wish in wishes if not wish.is_met(row))
        return f"the nearest, {usd:.3f} USD/h in {plain(str(row.get('geolocation') or 'unknown'))}, has {misses}"
    names = {gpu_key(str(row.get("gpu_name"))) for _, row in _priced(ask(_query(spec, (), any_gpu=True)), price)}
    near = difflib.get_close_matches(gpu_key(spec.gpus[0]), names, 1, cutoff=0.5)
    return f"the nearest --gpu on offer is {near[0]}" if near else f"on offer are {', '.join(sorted(names)) or 'none'}"


def _priced(rows: object, price: str) -> list[tuple[float, Row]]:
    """Price and row of each offer, cheapest first. Raises UnknownOutcome where no row can be read."""
    given = rows if isinstance(rows, list) else [rows]
    usable = [
        (float(row[price]), row)
        for row in given
        if isinstance(row, Mapping) and all(isinstance(row.get(name), int | float) for name in (price, *NUMBERS))
    ]
    if given and not usable:
        raise UnknownOutcome("Vast.ai answered a search with something that is no list of offers")
    return sorted(usable, key=lambda offer: offer[0])


def _offer(row: Row, usd_per_hour: float, *, is_bid: bool) -> Offer:
    return Offer(
        str(int(row["id"])),
        str(int(row["machine_id"])),
        str(row.get("gpu_name") or ""),
        int(row["num_gpus"]),
        usd_per_hour,
        str(row.get("geolocation") or ""),
        float(row["cuda_max_good"]) if isinstance(row.get("cuda_max_good"), int | float) else None,
        float(row.get("storage_cost") or 0.0),
        float(row.get("inet_down_cost") or 0.0),
        is_bid,
        float(row.get("inet_up_cost") or 0.0),
    )
