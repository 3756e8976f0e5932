"""RunPod's catalog as offers: whatever of it cannot be read is left out, and an unreadable one is no empty market."""

import pytest

from tasks.services.rental.provider import MachineSpec, NoOffer, UnknownOutcome
from tasks.services.rental.providers.runpod_search import clouds_of, fitting, version

GPUS = {
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "NVIDIA RTX A4000": "RTX A4000",
    "NVIDIA RTX 4000 Ada Generation": "RTX 4000 Ada",
    "NVIDIA A100 80GB PCIe": "A100 PCIe",
    "NVIDIA A100-SXM4-80GB": "A100 SXM",
    "NVIDIA H100 80GB HBM3": "H100 SXM",
    "NVIDIA H100 NVL": "H100 NVL",
    "NVIDIA L40": "L40",
    "NVIDIA L40S": "L40S",
    "Tesla V100-SXM2-16GB": "V100 SXM2",
}
PLACES = [{"id": "EU-RO-1", "name": "Romania", "availability": "HIGH"}]


def row(number, name, **more):
    return {
        "id": number,
        "name": name,
        "memory": 24,
        "price": {"secure": 0.4, "community": 0.3},
        "maxCount": {"secure": 8, "community": 2},
        "availability": "HIGH",
        "dataCenters": PLACES,
        "cudaVersions": [{"version": "12.8", "available": True}],
        **more,
    }


def catalog(*rows):
    return lambda parameters: {"gpus": list(rows)}


ALL = catalog(*(row(number, name) for number, name in GPUS.items()))
ONE = "NVIDIA GeForce RTX 4090"


def offers(ask, **wishes):
    return fitting(MachineSpec(max_usd_per_hour=9, **wishes), ask)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("RTX_4090", "RTX 4090"),
        ("rtx 4090", "RTX 4090"),
        ("GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("RTX_A4000", "RTX A4000"),
        ("RTX_4000_Ada", "RTX 4000 Ada"),
        ("A100_PCIE", "A100 PCIe"),
        ("A100_SXM4", "A100 SXM"),
        ("A100-SXM4-80GB", "A100 SXM"),
        ("H100_SXM", "H100 SXM"),
        ("H100_NVL", "H100 NVL"),
        ("L40", "L40"),
        ("L40S", "L40S"),
        ("V100", "V100 SXM2"),
    ],
)
def test_a_gpu_is_known_however_it_is_spelled(typed, meant):
    assert [offer.gpu for offer in offers(ALL, gpus=(typed,))] == [meant]


@pytest.mark.parametrize("typed", ["A100", "H100"])
def test_a_name_that_fits_several_must_be_made_clear(typed):
    with pytest.raises(NoOffer, match=rf"--gpu {typed}: RunPod has several; choose from {typed}_"):
        offers(ALL, gpus=(typed,))


def test_a_name_that_is_near_is_told():
    with pytest.raises(NoOffer, match="the nearest --gpu it has are RTX_4090"):
        offers(ALL, gpus=("RTX_4099",))


def test_a_name_that_is_near_nothing_is_answered_with_all():
    with pytest.raises(NoOffer, match="it has A100_PCIE, A100_SXM, H100_NVL, "):
        offers(ALL, gpus=("Voodoo",))


@pytest.mark.parametrize(
    "bent",
    [
        {"id": None},
        {"id": "a\x1b[31m"},
        {"name": 7},
        {"price": None},
        {"price": {"secure": "free"}},
        {"price": {"secure": True}},
        {"maxCount": {}},
    ],
    ids=str,
)
def test_a_row_that_cannot_be_read_is_left_out_and_none_that_can_proves_nothing(bent):
    good, bad = row(ONE, "RTX 4090"), row(ONE, "RTX 4090") | bent

    assert len(offers(catalog(bad, good))) == 1
    with pytest.raises(UnknownOutcome, match="no list of GPUs"):
        offers(catalog(bad))


@pytest.mark.parametrize("answer", [{}, {"gpus": None}, {"gpus": {"a": 1}}, {"gpus": "none"}, {"gpus": ["x"]}])
def test_what_is_no_list_proves_nothing(answer):
    with pytest.raises(UnknownOutcome, match="no list of GPUs"):
        offers(lambda parameters: answer)


@pytest.mark.parametrize("stock", ["NONE", "SOME", None, 3])
def test_only_what_is_said_to_be_free_is_an_offer(stock):
    places = [{"id": "EU-RO-1", "name": "a", "availability": stock}]

    with pytest.raises(NoOffer, match="none is free at the moment"):
        offers(catalog(row(ONE, "RTX 4090", dataCenters=places, availability=stock)))


def test_a_cloud_that_names_no_places_is_one_offer():
    (offer,) = offers(catalog(row(ONE, "RTX 4090", dataCenters=[])))

    assert (offer.id, offer.region) == (f"SECURE//{ONE}", "secure")


def test_the_more_there_is_the_sooner_it_is_tried_at_one_price():
    places = [{"id": f"P-{stock}", "name": "a", "availability": stock} for stock in ("LOW", "HIGH", "MEDIUM")]

    found = offers(catalog(row(ONE, "RTX 4090", dataCenters=places)))

    assert [offer.region for offer in found] == ["P-HIGH", "P-MEDIUM", "P-LOW"]


@pytest.mark.parametrize(
    ("versions", "known"),
    [(("12.8", "12.6"), 12.6), (("12.8", "11.8"), 12.8), ((), 12.4), (("new", "12.8"), 12.8)],
)
def test_the_driver_is_taken_for_the_oldest_that_the_order_allows(versions, known):
    said = [{"version": one, "available": True} for one in versions]

    assert offers(catalog(row(ONE, "RTX 4090", cudaVersions=said)))[0].cuda == known


def test_prices_are_those_of_all_gpus_of_a_machine_and_of_its_cloud():
    (secure,) = offers(catalog(row(ONE, "RTX 4090")), num_gpus=4)
    community, _ = offers(catalog(row(ONE, "RTX 4090")), num_gpus=2, verified=False)

    assert (secure.usd_per_hour, community.usd_per_hour) == (1.6, 0.6)
    assert community.id.startswith("COMMUNITY/")


def test_more_gpus_than_a_machine_has_are_refused():
    with pytest.raises(NoOffer, match=r"at most 8 in a machine \(--num-gpus\)"):
        offers(catalog(row(ONE, "RTX 4090")), num_gpus=9)


@pytest.mark.parametrize(
    ("verified", "datacenter", "clouds"),
    [(True, False, 1), (True, True, 1), (False, True, 1), (False, False, 2)],
)
def test_machines_of_others_are_looked_at_only_where_neither_wish_forbids_it(verified, datacenter, clouds):
    assert len(clouds_of(MachineSpec(verified=verified, datacenter=datacenter))) == clouds


def test_what_is_asked_narrows_the_catalog():
    asked = []

    def ask(parameters):
        asked.append(dict(parameters))
        return {"gpus": [row(ONE, "RTX 4090")]}

    offers(ask, countries=("RO", "DE"), num_gpus=2)

    assert asked == [
        {
            "include": "AVAILABILITY", "product": "POD", "count": "2", "cloud": "SECURE", "minCudaVersion": "12.4",
            "countryCodes": "RO,DE",
        }
    ]  # fmt: skip


@pytest.mark.parametrize(("cuda", "written"), [(12.4, "12.4"), (13.0, "13.0"), (12.0, "12.0")])
def test_a_version_has_two_parts(cuda, written):
    assert version(cuda) == written
