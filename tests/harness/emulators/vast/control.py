"""Control of the emulated Vast.ai from another process: /emulator/faults, /emulator/preempt, /emulator/cost, ..."""

from collections.abc import Callable
from typing import Any

from harness.emulators.vast.cloud import ApiError, VastCloud

Body = dict[str, Any]


def control(cloud: VastCloud, name: str, body: Body) -> Any:
    """GET and POST /emulator/{name}."""
    if name not in CONTROLS:
        raise ApiError(404, "not_found", f"/emulator/{name}: known are {', '.join(sorted(CONTROLS))}")
    try:
        return CONTROLS[name](cloud, body)
    except (ValueError, TypeError, KeyError) as error:
        raise ApiError(400, "invalid_args", f"{type(error).__name__}: {error}") from error


def bill(cloud: VastCloud) -> Body:
    """What everything cost so far."""
    now = cloud.clock()
    return {
        "usd": cloud.cost(),
        "gpu_hours": cloud.hours(),
        "credit": cloud.credit(),
        "by_instance": {str(one.id): cloud.cost(one.id) for one in cloud.instances},
        "entries": [vars(entry) | {"usd": entry.usd(now)} for entry in cloud.ledger],
    }


def switch(cloud: VastCloud, body: Body) -> Body:
    """Change and show the switches."""
    cloud.faults.set(**body)
    return vars(cloud.faults)


def done(cloud: VastCloud, act: Callable[..., Any], *given: Any, **named: Any) -> Body:
    """Act, then show what lives."""
    act(*given, **named)
    return {"success": True, "live": [one.summary() for one in cloud.live()]}


CONTROLS: dict[str, Callable[[VastCloud, Body], Any]] = {
    "faults": switch,
    "cost": lambda cloud, _body: bill(cloud),
    "instances": lambda cloud, _body: [one.summary() for one in cloud.instances],
    "live": lambda cloud, _body: [one.summary() for one in cloud.live()],
    "offers": lambda cloud, _body: [it.row(rented=bool(cloud.tenants(it))) for it in cloud.offers.values()],
    "preempt": lambda cloud, body: done(cloud, cloud.preempt, body["id"], returns_after_s=body.get("returns_after_s")),
    "resume": lambda cloud, body: done(cloud, cloud.resume, body["id"]),
    "displace": lambda cloud, body: done(cloud, cloud.displace, body["id"]),
    "host_offline": lambda cloud, body: done(cloud, cloud.host_offline, body["id"], kill=bool(body["kill"])),
    "back_online": lambda cloud, body: done(cloud, cloud.back_online, body["id"]),
    "lose_processes": lambda cloud, body: done(cloud, cloud.lose_processes, body["id"]),
    "stall": lambda cloud, body: done(cloud, cloud.stall, body["id"]),
    "raise_min_bid": lambda cloud, body: done(cloud, cloud.raise_min_bid, body["id"], body["price"]),
    "set_credit": lambda cloud, body: done(cloud, cloud.set_credit, body["usd"]),
    "remove_offer": lambda cloud, body: done(cloud, cloud.remove_offer, body["id"]),
    "add_offer": lambda cloud, body: vars(cloud.add_offer(**body)),
    "default_market": lambda cloud, _body: [vars(offer) for offer in cloud.default_market()],
}
