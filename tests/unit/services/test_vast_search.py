"""A search on Vast.ai: what is asked, which offers fit, what keeps the nearest away."""

import operator

import pytest

from tasks.services.rental.provider import MachineSpec, NoOffer, UnknownOutcome
from tasks.services.rental.providers.vast_search import fitting

OPERATORS = {
    "eq": operator.eq,
    "gte": operator.ge,
    "lte": operator.le,
    "in": lambda has, values: has in values or has[-2:] in values,
}


def row(number=1, **more):
    return {
        "id": number,
        "machine_id": 10 + number,
        "gpu_name": "RTX 4090",
        "num_gpus": 1,
        "gpu_ram": 24_000,
        "cpu_ram": 64_000,
        "dph_total": 0.4,
        "min_bid": 0.1 * number,
        "disk_space": 200.0,
        "cuda_max_good": 12.8,
        "reliability": 0.99,
        "duration": 1e7,
        "inet_down": 500.0,
        "inet_down_cost": 0.02,
        "geolocation": "Sweden, SE",
        "verified": True,
        "datacenter": False,
        "rentable": True,
        "rented": False,
        **more,
    }


def market(*rows):
    """Answers a query as the service does: with the rows that are so."""

    def is_so(one, query):
        return all(
            OPERATORS[how](one[field], value) for field, condition in query.items() for how, value in condition.items()
        )

    return lambda query: [one for one in rows if is_so(one, query)]


def offers(*rows, **wishes):
    return fitting(MachineSpec(**{"max_usd_per_hour": 9.0, **wishes}), market(*rows))


def test_offers_come_cheapest_first_with_a_bid_a_little_above_the_least():
    found = offers(row(3), row(1), row(2))

    assert [one.id for one in found] == ["1", "2", "3"]
    assert [one.usd_per_hour for one in found] == pytest.approx([0.12, 0.24, 0.36])
    assert all(one.is_bid for one in found)


def test_a_bid_is_never_above_the_limit_and_what_costs_more_is_no_offer():
    found = offers(row(1), row(2), max_usd_per_hour=0.11)

    assert [(one.id, one.usd_per_hour) for one in found] == [("1", 0.11)]


def test_on_demand_has_the_price_that_is_asked():
    [found] = offers(row(), interruptible=False)

    assert (found.usd_per_hour, found.is_bid) == (0.4, False)


def test_what_is_too_dear_is_said_with_the_cheapest():
    with pytest.raises(NoOffer, match=r"under 0.05 USD/h: the cheapest is 0.100 USD/h; raise --max-price"):
        offers(row(), max_usd_per_hour=0.05)


@pytest.mark.parametrize(
    ("wishes", "miss"),
    [
        ({"disk_gb": 500}, r"disk_space 200 \(--disk\)"),
        ({"gpu_ram_gb": 48}, r"gpu_ram 24000 \(--gpu-ram\)"),
        ({"ram_gb": 128}, r"cpu_ram 64000 \(--ram\)"),
        ({"inet_mbps": 1000}, r"inet_down 500 \(--bandwidth\)"),
        ({"reliability": 0.999}, r"reliability 0.99 \(--reliability\)"),
        ({"datacenter": True}, r"datacenter 0 \(--datacenter\)"),
        ({"countries": ("JP",)}, r"geolocation Sweden, SE \(--region\)"),
        ({"max_usd_per_tb": 10.0}, r"inet_down_cost 0.02 \(--max-bandwidth-price\)"),
        ({"hours": 10_000}, r"duration 1e\+07 \(--max-hours\)"),
        ({"image": "x:cuda13.0"}, r"cuda_max_good 12.8 \(choose an --image for a CUDA below 13.0\)"),
    ],
    ids=str,
)
def test_what_the_nearest_offer_misses_is_said_with_its_price_and_place(wishes, miss):
    with pytest.raises(NoOffer, match=rf"the nearest, 0.100 USD/h in Sweden, SE, has {miss}"):
        offers(row(1), row(2), **wishes)


def test_the_nearest_offer_is_the_one_that_misses_least_not_the_cheapest():
    with pytest.raises(NoOffer, match=r"the nearest, 0.200 USD/h in Sweden, SE, has disk_space 450 \(--disk\)"):
        offers(row(1), row(2, disk_space=450.0), disk_gb=500)


def test_an_offer_that_nobody_verified_must_be_asked_for():
    with pytest.raises(NoOffer, match=r"has verified 0 \(--no-verified\)"):
        offers(row(verified=False))

    assert len(offers(row(verified=False), verified=False)) == 1


def test_an_offer_that_does_not_say_what_was_wished_for_misses_it():
    unknown = {**row(), "geolocation": None}

    with pytest.raises(NoOffer, match=r"0.100 USD/h in unknown, has geolocation unknown \(--region\)"):
        fitting(
            MachineSpec(countries=("DE",), max_usd_per_hour=9),
            lambda query: [] if "geolocation" in query else [unknown],
        )


def test_any_of_several_gpus_will_do():
    other = row(2, gpu_name="RTX 3090")

    assert {one.gpu for one in offers(row(), other, gpus=("RTX_4090", "RTX_3090"))} == {"RTX 4090", "RTX 3090"}


@pytest.mark.parametrize(
    ("typed", "said"),
    [("RTX_4091", "the nearest --gpu on offer is RTX_4090"), ("Voodoo", "on offer are RTX_4090")],
)
def test_a_gpu_that_nobody_offers_is_said_with_what_there_is(typed, said):
    with pytest.raises(NoOffer, match=rf"has no 1 x {typed} .*; {said}"):
        offers(row(), gpus=(typed,))


def test_an_empty_market_is_said():
    with pytest.raises(NoOffer, match="on offer are none"):
        offers()


@pytest.mark.parametrize("answer", [{}, None, "none", [{"id": 1}], [row() | {"min_bid": None}], [row() | {"id": "1"}]])
def test_what_is_no_list_of_offers_proves_nothing(answer):
    with pytest.raises(UnknownOutcome, match="no list of offers"):
        fitting(MachineSpec(max_usd_per_hour=9), lambda query: answer)


def test_an_offer_that_cannot_be_read_is_left_out():
    found = fitting(MachineSpec(max_usd_per_hour=9), lambda query: [row(1) | {"machine_id": None}, row(2)])

    assert [one.id for one in found] == ["2"]
