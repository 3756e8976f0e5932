"""Tables of rented machines, and what a launch would do."""

from collections.abc import Sequence

from flows.requests.job import configs_of
from flows.requests.launch import LaunchRequest, buyer_of, provider_of
from tasks.services.rental.budget import Budget
from tasks.services.rental.bundle import onstart
from tasks.services.rental.credit import CreditWatch
from tasks.services.rental.provider import Instance
from ups_models.wording import plain


def instance_table(instances: Sequence[Instance]) -> str:
    """One line each."""
    if not instances:
        return "no instances"
    rows = [
        (plain(one.id), plain(one.state), one.usd_per_hour, "yes" if one.is_bid else "no", plain(one.label))
        for one in instances
    ]
    wide = max(12, *(len(row[0]) + 2 for row in rows))
    lines = [f"{row[0]:<{wide}}{row[1]:<10}{row[2]:>8.3f}  {row[3]:<5}{row[4]}" for row in rows]
    total = sum(one.usd_per_hour for one in instances)
    head = f"{'id':<{wide}}{'state':<10}{'USD/h':>8}  {'bid':<5}label"
    return "\n".join([head, *lines, f"{len(instances)} instances, {total:.3f} USD/h"])


def plan_of(request: LaunchRequest) -> str:
    """What would be rented, what it may cost, and the script that would run. Nothing that costs is contacted."""
    configs_of(request.train)
    provider = provider_of(request)
    buyer = buyer_of(request, provider)
    decision = buyer.decide()
    if decision.prospect is None:
        return f"Nothing is rented yet: {decision.why}"
    first = decision.prospect.offer
    CreditWatch(provider).require_hour(first.usd_per_hour)
    if request.budget_file is not None:
        Budget.of(request.budget_file, "").require_start(buyer.start_usd(decision.prospect))
    most = min(request.max_total_cost, request.max_hours * request.machine().max_usd_per_hour)
    return "\n".join(
        [
            f"Offer {plain(first.id)}: {first.num_gpus} x {plain(first.gpu)}, {plain(first.region)}",
            f"Price: {first.usd_per_hour:.3f} USD/h ({'bid' if first.is_bid else 'on demand'})",
            f"Expected: {decision.why}",
            f"At most: {most:.2f} USD in {request.max_hours:g} h, on this machine or others",
            f"Image: {request.wishes.image}, {request.wishes.disk:g} GB",
            "Script:",
            onstart(),
        ]
    )
