"""Several providers as one."""

import pytest

from tasks.services.rental.provider import (
    Instance,
    MachineSpec,
    NoOffer,
    NoSuchInstance,
    Offer,
    ProviderError,
    UnknownOutcome,
)
from tasks.services.rental.providers import registry
from tasks.services.rental.providers.several import Several


class Shop:
    """A provider with one offer, or a reason for none."""

    def __init__(self, price, *, bids=False, credit=None):
        self.price, self.supports_bids, self.credit_usd = price, bids, credit
        self.live, self.rented = {}, []

    def search(self, spec):
        if isinstance(self.price, Exception):
            raise self.price
        return [Offer("9", "m9", "L4", 1, self.price, "DE")]

    def rent(self, offer, spec, *, label, onstart, env):
        self.rented.append((offer.id, offer.machine_id))
        self.live["5"] = Instance("5", "m9", label, "running", "", False, self.price)
        return "5"

    def describe(self, instance_id):
        return self.live.get(instance_id)

    def list_instances(self, prefix):
        return [one for one in self.live.values() if one.label.startswith(prefix)]

    def logs(self, instance_id):
        return f"log of {instance_id}"

    def destroy(self, instance_id):
        del self.live[instance_id]

    def has_account_variable(self, name):
        return self.supports_bids


class Bank(Shop):
    """And an account."""

    def credit(self):
        return self.credit_usd


def test_the_offers_of_all_are_there_the_cheapest_first():
    both = Several({"a": Shop(0.3), "b": Shop(0.2)})

    assert [(one.id, one.machine_id, one.usd_per_hour) for one in both.search(MachineSpec())] == [
        ("b:9", "b:m9", 0.2),
        ("a:9", "a:m9", 0.3),
    ]


@pytest.mark.parametrize("error", [NoOffer("a has none"), UnknownOutcome("a is silent")])
def test_where_one_has_nothing_or_is_silent_the_others_serve(error):
    assert [one.id for one in Several({"a": Shop(error), "b": Shop(0.2)}).search(MachineSpec())] == ["b:9"]


def test_where_none_has_a_machine_each_says_why():
    with pytest.raises(NoOffer, match="a has none; b is too dear"):
        Several({"a": Shop(NoOffer("a has none")), "b": Shop(NoOffer("b is too dear"))}).search(MachineSpec())


def test_where_one_is_silent_and_the_others_have_none_nothing_is_known():
    with pytest.raises(UnknownOutcome):
        Several({"a": Shop(NoOffer("none")), "b": Shop(UnknownOutcome("silent"))}).search(MachineSpec())


def test_a_machine_is_rented_found_and_destroyed_where_its_offer_was():
    a, b = Shop(0.3), Shop(0.2)
    both = Several({"a": a, "b": b})

    number = both.rent(both.search(MachineSpec())[0], MachineSpec(), label="ups-r1-g1", onstart="", env={})

    assert (number, b.rented, a.live) == ("b:5", [("9", "m9")], {})
    assert [both.describe(one.id) for one in both.list_instances("ups")] == both.list_instances("ups")
    assert [one.id for one in both.list_instances("ups-r1")] == ["b:5"]
    assert both.logs(number) == "log of 5"
    both.destroy(number)
    assert (b.live, both.describe("b:5")) == ({}, None)


def test_what_only_one_of_them_knows_how_to_do_is_refused_for_the_others():
    both = Several({"a": Shop(0.3)})

    assert both.price_to_keep("a:5") is None
    for ask in (lambda: both.ssh_address("a:5"), lambda: both.change_bid("a:5", 1.0)):
        with pytest.raises(ProviderError):
            ask()
    with pytest.raises(NoSuchInstance, match="is of none of a"):
        both.describe("c:5")


def test_the_account_with_the_least_decides_and_a_variable_must_be_in_all():
    both = Several({"a": Bank(0.3, bids=True, credit=5.0), "b": Bank(0.2, credit=2.0), "c": Shop(0.1)})

    assert (both.credit(), both.supports_bids, both.has_account_variable("WANDB_API_KEY")) == (2.0, True, False)
    assert Several({"c": Shop(0.1)}).credit() is None


def test_an_instance_is_looked_for_where_its_id_says(tmp_path):
    assert isinstance(registry.provider_of(["local:1"], "vast", tmp_path), Several)
    assert not isinstance(registry.provider_of(["1", "me@host:22-1"], "local", tmp_path), Several)


def test_names_with_commas_between_them_are_one_provider(tmp_path):
    both = registry.provider_for("local,local", tmp_path)

    assert [one.id for one in both.search(MachineSpec())] == ["local:1"]
