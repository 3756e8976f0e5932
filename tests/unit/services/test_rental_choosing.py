"""Which machine is the better one: by name, place, pace, and what it costs to the end."""

import pytest

from tasks.services.rental.choosing.pace import STEPS_PER_S_AT_1_TB_PER_S, Pace, Work, mean_pace
from tasks.services.rental.choosing.places import countries_of
from tasks.services.rental.choosing.ranking import Ranking
from tasks.services.rental.gpus import bandwidth, gpu_key
from tasks.services.rental.provider import MachineSpec, Offer
from ups_models.errors import BadInput

WORK = Work((("operator", 300), ("diff_residual", 200), ("steady_prior", 100)))


def offer(number, gpu, price, **more):
    return Offer(str(number), str(number), gpu, 1, price, "DE", **more)


def names_by_worth(offers, *, steps=720_000, sooner=0.0, pace=None, disk_gb=40.0):
    ranking = Ranking(steps, pace or Pace(), 0.1, sooner)
    return [one.offer.id for one in ranking.best_first(offers, MachineSpec(disk_gb=disk_gb))]


@pytest.mark.parametrize(
    ("text", "countries"),
    [("DE", ("DE",)), ("de, NL,de", ("DE", "NL")), ("Germany", ("DE",)), ("north america", ("CA", "MX", "US"))],
)
def test_places_are_known_by_letters_and_by_name(text, countries):
    assert countries_of(text) == countries


def test_europe_holds_the_union_and_more():
    assert set(countries_of("eu")) < set(countries_of("Europe"))


@pytest.mark.parametrize(("text", "hint"), [("Germny", "did you mean germany?"), ("12", "give a country, or africa")])
def test_an_unknown_place_is_refused_with_the_nearest(text, hint):
    with pytest.raises(BadInput, match=hint.replace("?", r"\?")):
        countries_of(f"DE,{text}")


@pytest.mark.parametrize(
    ("spelled", "key"),
    [
        ("RTX_4090", "RTX_4090"),
        ("NVIDIA GeForce RTX 4090", "RTX_4090"),
        ("rtx-4090", "RTX_4090"),
        ("Tesla V100", "V100"),
        ("NVIDIA A100 80GB PCIe", "A100_PCIE"),
    ],
)
def test_a_gpu_has_one_name_however_it_is_spelled(spelled, key):
    assert gpu_key(spelled) == key


def test_a_variant_that_is_not_listed_counts_as_its_family():
    assert bandwidth("H100 80GB HBM3") == bandwidth("H100")
    assert bandwidth("RTX 4090 D") == bandwidth("RTX_4090")


def test_the_pace_is_what_was_measured_and_says_on_what_it_rests():
    measured = mean_pace([("RTX 4090", 600, 20.0), ("RTX_4090", 400, 20.0), ("A100 SXM4", 0, 3.0)])
    ours, others, none = Pace(measured), Pace({}, measured), Pace()

    assert measured == {"RTX_4090": 25.0}
    assert ours.steps_per_s("NVIDIA GeForce RTX 4090") == others.steps_per_s("RTX_4090") == 25.0
    assert ours.steps_per_s("H100 SXM") == pytest.approx(25.0 * bandwidth("H100_SXM") / bandwidth("RTX_4090"))
    assert none.steps_per_s("H200") == STEPS_PER_S_AT_1_TB_PER_S * bandwidth("H200") / 1000
    sources = [pace.source(gpu) for pace, gpu in ((ours, "RTX 4090"), (ours, "L4"), (others, "L4"), (none, "L4"))]
    assert sources == [
        "measured in this training",
        "estimated from machines in this training",
        "estimated from machines in other trainings",
        "a guess before the first measurement",
    ]


@pytest.mark.parametrize(
    ("stage", "step", "left"),
    [("", 0, 600), ("operator", 100, 500), ("steady_prior", 40, 60), ("steady_prior", 900, 0)],
)
def test_the_work_that_is_left_is_counted_in_steps(stage, step, left):
    assert WORK.left(stage, step) == left


def test_the_machine_that_finishes_for_less_comes_first_though_its_hour_costs_more():
    slow, fast = offer(1, "RTX 3060", 0.10), offer(2, "RTX 4090", 0.20)

    assert names_by_worth([slow, fast]) == ["2", "1"]
    assert names_by_worth([slow, fast], steps=100) == ["1", "2"]  # hardly anything is left: the start decides


def test_what_is_downloaded_and_kept_on_disk_counts():
    plain, metered = offer(1, "RTX 4090", 0.20), offer(2, "RTX 4090", 0.19, inet_usd_per_gb=0.1)
    stored = offer(3, "RTX 4090", 0.19, disk_usd_per_gb_month=1.0)

    assert names_by_worth([metered, plain]) == ["1", "2"]
    assert names_by_worth([stored, plain]) == ["1", "3"]
    assert names_by_worth([stored, plain], disk_gb=1.0) == ["3", "1"]


def test_an_hour_that_is_worth_much_makes_the_fast_machine_the_better_one():
    cheap, fast = offer(1, "RTX 4090", 0.20), offer(2, "H100 SXM", 1.50)

    assert names_by_worth([cheap, fast]) == ["1", "2"]
    assert names_by_worth([cheap, fast], sooner=1.0) == ["2", "1"]
