"""Ending a launch from outside: with its controller here, without one, and where only its machines are known."""

import json
import os
import signal
import time
from dataclasses import replace
from typing import Any

import pytest

from tasks.services.rental.budget import Budget
from tasks.services.rental.fleet import label_of
from tasks.services.rental.journal import Journal
from tasks.services.rental.launches import Known, Launches
from tasks.services.rental.limits import BudgetSpent
from tasks.services.rental.lock import Owner, exclusive_controller
from tasks.services.rental.provider import Instance, ProviderError
from tasks.services.rental.stopping import destroy_each, stop
from tasks.services.run.lock import current_owner
from ups_models.errors import BadInput, UPSError

RUN = "p/r1"


def instance(number):
    return Instance(number, "7", label_of("p/r1", int(number) - 1000), "running", "", True, 0.2)


class Cloud:
    """A provider of living machines."""

    def __init__(self, *numbers):
        self.live = {
            number: Instance(number, "7", label_of("p/r1", int(number) - 1000), "running", "", True, 0.2)
            for number in numbers
        }
        self.stays = False

    def list_instances(self, prefix):
        return [one for one in self.live.values() if one.label.startswith(prefix)]

    def logs(self, instance_id):
        return "training\n" if instance_id in self.live else ""

    def destroy(self, instance_id):
        if self.stays:
            raise ProviderError(f"instance {instance_id} is not destroyed, and costs money")
        self.live.pop(instance_id, None)


def ended(known, cloud, **options):
    return stop(known, RUN, cloud, **options)


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "rented.jsonl")
    journal.note("began", job={"run": RUN}, provider="local")
    journal.note("renting", 1, label=label_of("p/r1", 1), offer={"machine_id": 7}, usd_per_hour=0.2)
    journal.note("rented", id="1001")
    return journal


def known_in(tmp_path) -> Known:
    return Launches(tmp_path).here()[-1]


def test_a_launch_whose_controller_is_dead_is_closed_its_machines_destroyed_and_their_log_kept(tmp_path, journal):
    cloud = Cloud("1001")

    stopped = ended(known_in(tmp_path), cloud)

    assert (stopped.machines, cloud.live) == (("1001",), {})
    assert stopped.usd == pytest.approx(0, abs=0.01)
    assert known_in(tmp_path).state == "closed"
    assert (tmp_path / "machine-1.log").read_text("utf-8") == "training\n"
    assert Journal(journal.path).open_job is None


@pytest.mark.usefixtures("journal")
def test_a_machine_that_the_journal_does_not_know_is_destroyed_too(tmp_path):
    cloud = Cloud("1001", "1002")

    ended(known_in(tmp_path), cloud)

    assert cloud.live == {}


@pytest.mark.usefixtures("journal")
def test_a_launch_is_closed_only_once_its_machines_are_gone(tmp_path):
    cloud = Cloud("1001")
    cloud.stays = True

    with pytest.raises(ProviderError, match="1001 is not destroyed"):
        ended(known_in(tmp_path), cloud)

    assert known_in(tmp_path).state == "interrupted"


def test_a_controller_here_is_told_and_waited_for(tmp_path, journal):
    cloud, told = Cloud("1001"), []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
    lock = exclusive_controller(journal.path)
    lock.__enter__()
    known = known_in(tmp_path)

    def pause(_seconds):
        lock.__exit__(None, None, None)

    try:
        stopped = ended(known, cloud, pause=pause)
    finally:
        signal.signal(signal.SIGTERM, before)

    assert told == [signal.SIGTERM]
    assert stopped.controller.startswith(f"process {os.getpid()} on ")
    assert cloud.live == {}


def test_a_controller_that_is_gone_by_then_is_no_obstacle(tmp_path, journal):
    gone = Owner(2**22 - 1, str(current_owner()["host"]), "2026-11-28T12:00:00Z")
    known = replace(known_in(tmp_path), controller=gone)

    assert ended(known, Cloud("1001")).machines == ("1001",)


@pytest.mark.usefixtures("journal")
def test_a_controller_on_another_host_that_cannot_be_told_is_named_at_once(tmp_path):
    cloud = Cloud("1001")
    known = replace(known_in(tmp_path), controller=Owner(77, "elsewhere", "2026-11-28T12:00:00Z"))

    with pytest.raises(UPSError, match=r"process 77 on elsewhere.*works on the launch.*type `ups stop` on elsewhere"):
        ended(known, cloud, pause=lambda _: pytest.fail("it waited"))

    assert list(cloud.live) == ["1001"]


@pytest.mark.usefixtures("journal")
def test_machines_are_destroyed_although_nothing_can_be_written(tmp_path, caplog):
    cloud, known = Cloud("1001"), known_in(tmp_path)
    (tmp_path / "machine-1.log").mkdir()
    (tmp_path / "rented.lock").mkdir()

    with pytest.raises(BadInput, match="cannot be the lock of a run"):
        ended(known, cloud)

    assert cloud.live == {}
    assert "the log of instance 1001 is lost" in caplog.text


def test_a_machine_that_cannot_be_noted_keeps_no_other_from_being_destroyed():
    cloud: Any = Cloud("1001", "1002")

    def note(instance_id):
        raise OSError(f"no space for {instance_id}")

    with pytest.raises(ProviderError, match="no space for 1001; no space for 1002"):
        destroy_each([(cloud, instance(number)) for number in ("1001", "1002")], note)

    assert cloud.live == {}


def test_what_has_ended_is_refused_and_what_was_kept_is_destroyed(tmp_path, journal):
    journal.note("kept")
    journal.note("closed")
    cloud = Cloud("1001")

    stopped = ended(known_in(tmp_path), cloud)

    assert (stopped.machines, cloud.live) == (("1001",), {})
    with pytest.raises(BadInput, match="its launch has ended"):
        ended(known_in(tmp_path), cloud)


def test_machines_of_a_launch_elsewhere_are_destroyed_and_what_cannot_be_told_is_said(tmp_path, caplog):
    cloud = Cloud("1001", "1002")
    [known] = Launches(tmp_path, "local").everywhere(list(cloud.live.values()))

    stopped = ended(known, cloud)

    assert (stopped.machines, stopped.usd, cloud.live) == (("1001", "1002"), None, {})
    assert "a controller elsewhere may rent again" in caplog.text


def test_a_machine_that_stays_does_not_keep_the_others_from_being_destroyed():
    class Stubborn(Cloud):
        def destroy(self, instance_id):
            if instance_id == "1001":
                raise ProviderError("1001 is not destroyed, and costs money")
            super().destroy(instance_id)

    gone: list[str] = []
    cloud: Any = Stubborn("1001", "1002", "1003")

    with pytest.raises(ProviderError, match="1001 is not destroyed"):
        destroy_each([(cloud, instance(number)) for number in ("1001", "1002", "1003")], gone.append)

    assert (list(cloud.live), gone) == (["1001"], ["1002", "1003"])


def test_what_a_stopped_launch_has_cost_is_noted_in_its_budget(tmp_path):
    budget, ago = tmp_path / "budget.yaml", time.time() - 3600.0
    budget.write_text("usd: 50\n", "utf-8")
    facts = {"label": label_of(RUN, 1), "offer": {"machine_id": 7}, "usd_per_hour": 0.2}
    events = [
        {"event": "began", "generation": 0, "job": {"run": RUN}, "budget": {"file": str(budget), "launch": "this"}},
        {"event": "renting", "generation": 1, **facts},
        {"event": "rented", "generation": 1, "id": "1001"},
    ]
    lines = [json.dumps(event | {"time": ago}) for event in events]
    (tmp_path / "rented.jsonl").write_text("\n".join(lines) + "\n", "utf-8")

    ended(known_in(tmp_path), Cloud("1001"))

    [noted] = [json.loads(line) for line in Budget.of(budget, "this").ledger.read_text("utf-8").splitlines()]
    assert (noted["launch"], noted["usd"]) == ("this", pytest.approx(0.2, abs=0.01))


@pytest.mark.parametrize("line", ['{"launch": "a"}', '{"launch": "a", "usd": "much"}'])
def test_a_line_of_a_ledger_without_usd_is_named(tmp_path, line):
    (tmp_path / "budget.yaml").write_text("usd: 50\n", "utf-8")
    budget = Budget.of(tmp_path / "budget.yaml", "this")
    budget.ledger.write_text(f"{line}\n", "utf-8")

    with pytest.raises(BadInput, match=r"spent\.jsonl: a line holds no usd; correct it"):
        budget.require(rents=False)


def test_before_a_launch_nothing_is_said_of_machines_that_it_has_not(tmp_path):
    (tmp_path / "budget.yaml").write_text("usd: 5\n", "utf-8")
    budget = Budget.of(tmp_path / "budget.yaml", "this")
    budget.ledger.write_text('{"launch": "a", "usd": 6.0}\n', "utf-8")

    with pytest.raises(BudgetSpent, match=r"its 5 USD in all are spent") as before:
        budget.require(rents=False)
    with pytest.raises(BudgetSpent, match="all machines are given back"):
        budget.require()

    assert "given back" not in str(before.value)
