"""Shards, the tree over them, and what is refused where processes meet."""

import dataclasses
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from torch._C._distributed_c10d import HashStore, PrefixStore

from ups_models.config.schema import PipelineConfig
from ups_models.errors import BadInput
from ups_models.stages.registry import STAGES
from ups_models.training import overlap
from ups_models.training.joining import ProcessMissing, announce, joined
from ups_models.training.optim import flat_gradient, put_gradient
from ups_models.training.overlap import Sending
from ups_models.training.parallel import World, tree_sum
from ups_models.training.state import require_no_batch_statistics


@given(world_size=st.integers(1, 8), power=st.integers(0, 6))
def test_every_shard_is_computed_by_one_process(world_size, power):
    total = 2**power
    if world_size > total:
        return

    blocks = [World(rank, world_size).shards(total) for rank in range(world_size)]

    assert [shard for block in blocks for shard in block] == list(range(total))
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1


def test_neighbours_are_added_first():
    parts = [torch.tensor([value]) for value in (1e8, 1.0, -1e8, 1.0)]

    found = tree_sum(parts)

    assert found.item() == ((parts[0] + parts[1]) + (parts[2] + parts[3])).item()


def test_a_flat_gradient_goes_back_into_its_parameters():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    unused = nn.Parameter(torch.ones(2))
    net.register_parameter("unused", unused)
    loss = net[1](net[0](torch.randn(5, 3))).square().mean()

    flat = flat_gradient(loss, net)
    expected = [None if one.grad is None else 2 * one.grad.clone() for one in net.parameters()]
    total = put_gradient(2 * flat, net)

    assert total.item() == pytest.approx(2 * loss.item())
    for parameter, wanted in zip(net.parameters(), expected, strict=True):
        if wanted is None:
            assert parameter.grad is None
        else:
            assert torch.equal(wanted, parameter.grad if parameter.grad is not None else torch.empty(0))


def test_complex_gradients_of_a_spectral_layer_are_summed_like_all_others():
    torch.manual_seed(0)
    net = nn.ParameterDict({"real": torch.randn(3), "modes": torch.randn(2, 2, dtype=torch.complex64)})
    loss = (net["modes"] * net["real"][:2]).abs().square().mean() + net["real"].sum()

    flat = flat_gradient(loss, net)
    expected = {name: 2 * one.grad for name, one in net.items()}
    total = put_gradient(2 * flat, net)

    assert not flat.is_complex()
    assert total.item() == pytest.approx(2 * loss.item())
    assert all(torch.equal(one.grad, expected[name]) for name, one in net.items())


@pytest.mark.parametrize("way", ["gather", "subtree", "slices", None])
def test_a_process_that_has_joined_alone_sums_as_one_that_has_not(way):
    torch.manual_seed(0)
    parts = list(torch.randn(4, 7))

    with joined(0, 1, HashStore(), "commit a") as world:
        found = dataclasses.replace(world, way=way).sum_over_shards(parts, 4)
        flags = world.any_of(True, False)
        value = world.from_first({"a": 1})

    assert torch.equal(found, World().sum_over_shards(parts, 4))
    assert (flags, value) == ((True, False), {"a": 1})


def test_parts_of_a_gradient_are_sent_before_the_backward_pass_has_ended(monkeypatch):
    monkeypatch.setattr(overlap, "PART", 1)
    first, sent = nn.Linear(3, 2), []
    net = nn.Sequential(first, nn.Tanh(), nn.Linear(2, 1))
    loss = net(torch.randn(5, 3)).square().mean()

    with joined(0, 1, HashStore(), "commit a") as world:
        sending = Sending(world, list(net.parameters()), [], loss.detach())
        first.weight.register_hook(lambda _: sent.append(len(sending.sent)))
        with sending.during_backward():
            flat = flat_gradient(loss, net)
        whole = sending.result()

    assert sent[0] >= 2
    assert torch.equal(whole, flat)


@pytest.mark.parametrize(
    ("world_size", "numbers", "way"), [(4, 10, "subtree"), (3, 10, "gather"), (3, 10**8, "slices")]
)
def test_the_cheapest_way_is_taken(world_size, numbers, way):
    assert World(0, world_size)._cheapest(numbers, 8) == way


def test_processes_that_work_on_different_things_refuse_each_other():
    store = HashStore()
    announce(1, store)
    PrefixStore("joining", store).set("1", "commit b")

    with (
        pytest.raises(BadInput, match="process 1 works on commit b, and process 0 on commit a"),
        joined(0, 2, store, "commit a"),
    ):
        pass


def test_a_process_that_is_here_may_read_its_data_for_longer_than_one_that_does_not_come_is_waited_for():
    store = HashStore()
    announce(1, store)
    reads = threading.Timer(0.5, PrefixStore("joining", store).set, args=("1", "commit b"))
    reads.start()

    with pytest.raises(BadInput, match="process 1 works on commit b"), joined(0, 2, store, "commit a", join_s=0.05):
        pass

    reads.join()


def test_a_process_that_does_not_come_is_named():
    with (
        pytest.raises(ProcessMissing, match=r"process 1 of 2 did not join within 0\.1 s"),
        joined(0, 2, HashStore(), "commit a", join_s=0.1),
    ):
        pass


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"training": {"shards": 3}}, "training.shards=3 is no power of two"),
        (
            {"training": {"shards": 8}, "stages": {"operator": {"batch_size": 36}}},
            "stages.operator.batch_size=36 is not divisible by training.shards=8",
        ),
        ({"runtime": {"processes": 0}}, "processes"),
        ({"runtime": {"processes": 2}}, "runtime.processes=2 is more than training.shards=1: a process computes whole"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(raw, message):
    with pytest.raises(ValidationError, match=message):
        PipelineConfig.model_validate(raw)


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(2),
        nn.BatchNorm1d(2, track_running_stats=False),
        nn.InstanceNorm1d(2, track_running_stats=True),
        nn.utils.parametrizations.spectral_norm(nn.Conv1d(2, 2, 1)),
    ],
)
def test_statistics_of_a_batch_are_refused_where_it_is_divided(layer):
    net = nn.Sequential(nn.Conv1d(1, 2, 1), layer)

    require_no_batch_statistics(STAGES["operator"], net, shards=1)
    with pytest.raises(BadInput, match=r"its network has a \w+, .* training.shards=2; use GroupNorm"):
        require_no_batch_statistics(STAGES["operator"], net, shards=2)


def test_a_world_of_its_own_hears_only_itself():
    world = dataclasses.replace(World())

    assert world.any_of(True, False) == (True, False)
    assert world.from_first("x") == "x"
