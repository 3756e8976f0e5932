"""One controller a run, wherever it is: who may work on it, who stops, and what a machine writes beside that."""

import pytest

from tasks.services.rental.claims import DEAD_AFTER_S, HEARTBEAT_S, TakenOver, new_claim, require_free
from tasks.services.rental.controller import Controller
from tasks.services.rental.fleet import Fleet, label_of, name_kept
from tasks.services.rental.journal import Journal
from tasks.services.rental.launches import Launches
from tasks.services.rental.limits import Limits
from tasks.services.rental.outcome import record
from tasks.services.rental.provider import Instance, MachineSpec
from tasks.services.tracking.coordination import CONTROLLER, WandbCoordination
from tasks.services.tracking.protocols import ControllerRecord, RemoteProgress, TrackingUnavailable
from tasks.services.tracking.run_path import RunPath
from ups_models.errors import BadInput

JOB = {"run": "p/r1", "artifact": "a", "digest": "d"}
QUICK = Limits(poll_s=0, lost_after_s=0, backoff_s=(0,) * 8)
NOW = 1_000_000.0


def other(number=1, name="first", seen_at=NOW):
    return ControllerRecord(number, name, "there", 77, "2026-11-28T12:00:00Z", seen_at, JOB)


def progress(controller=None, outcome=None, generation=1):
    return RemoteProgress(generation, outcome, "operator", 10, "running", controller)


class Run:
    """A run that remembers who claims it."""

    def __init__(self):
        self.written = []
        self.down = False

    def claim(self, record):
        if self.down:
            raise TrackingUnavailable("no answer")
        self.written.append(record)


@pytest.fixture
def clock():
    return [NOW]


@pytest.fixture
def claimed(clock):
    """A run that was claimed after another controller, and the claim."""
    run = Run()
    claim = new_claim(run, other(3), JOB)
    claim.clock = lambda: clock[0]
    claim.take()
    return run, claim


def test_a_run_that_is_worked_on_elsewhere_is_refused_and_the_other_is_named():
    with pytest.raises(BadInput, match=r"process 77 on there, .*last heard of at .* 60 s ago.*--takeover"):
        require_free("p/r1", other(), (), takeover=False, now=NOW + 60)


@pytest.mark.parametrize(
    ("before", "own", "takeover"),
    [
        (None, (), False),
        (other(seen_at=0.0), (), False),
        (other(seen_at=NOW - DEAD_AFTER_S), (), False),
        (other(), ("first",), False),
        (other(), (), True),
    ],
    ids=["nobody", "let go", "dead", "our own, which was killed", "taken over"],
)
def test_a_run_that_nobody_works_on_or_that_is_taken_over_is_free(before, own, takeover):
    require_free("p/r1", before, own, takeover=takeover, now=NOW)


def test_a_claim_counts_more_than_the_one_before_and_holds_the_job(claimed):
    [written] = claimed[0].written

    assert (written.number, written.job, written.seen_at) == (4, JOB, NOW)


def test_a_claim_is_renewed_only_when_that_is_due(claimed, clock):
    run, claim = claimed

    claim.keep(progress(claim.record))
    clock[0] += HEARTBEAT_S
    claim.keep(progress(claim.record))

    assert [one.seen_at for one in run.written] == [NOW, NOW + HEARTBEAT_S]


@pytest.mark.parametrize("found", [None, other(3)], ids=["nothing", "an older claim"])
def test_what_a_machine_wrote_over_is_written_again(claimed, found):
    run, claim = claimed

    claim.keep(progress(found))

    assert len(run.written) == 2


@pytest.mark.parametrize("number", [4, 5])
def test_a_later_claim_ends_this_controller(claimed, number):
    run, claim = claimed

    with pytest.raises(TakenOver, match="process 77 on there"):
        claim.keep(progress(other(number)))

    assert len(run.written) == 1


def test_a_claim_of_this_journal_s_killed_controller_is_no_other(clock):
    run = Run()
    claim = new_claim(run, None, JOB, own={"first"})

    claim.keep(progress(other(9)))

    assert [one.number for one in run.written] == [10]


def test_nothing_is_written_beside_the_end_of_a_machine_s_job(claimed, clock):
    run, claim = claimed
    clock[0] += HEARTBEAT_S

    claim.keep(progress(claim.record, outcome=(1, 0)))

    assert len(run.written) == 1


def test_a_heartbeat_that_does_not_arrive_is_a_warning_and_tried_again(claimed, clock, caplog):
    run, claim = claimed
    run.down = True
    clock[0] += HEARTBEAT_S

    claim.keep(progress(claim.record))
    run.down = False
    claim.keep(progress(claim.record))

    assert "no answer" in caplog.text
    assert len(run.written) == 2


def test_a_claim_that_is_let_go_says_so(claimed):
    run, claim = claimed

    claim.release()

    assert run.written[-1].seen_at == 0


def test_a_claim_is_read_back_from_the_run_s_config(wandb, online):
    wandb.add("r1")
    run = WandbCoordination(RunPath("r1", "ups-pipeline", "researcher"), online.tracking, wandb)

    run.claim(other(2))

    assert run.progress().controller == other(2)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"number": "x"}', "null"])
def test_a_config_that_holds_no_claim_names_nobody(wandb, online, text):
    wandb.add("r1").config[CONTROLLER] = text

    run = WandbCoordination(RunPath("r1", "ups-pipeline", "researcher"), online.tracking, wandb)

    assert run.progress().controller is None


# ---------------------------------------------------------------------------------------------- the machines and claims


class Cloud:
    """A provider with machines, and the run on them."""

    supports_bids = False
    run_id = "r1"

    def __init__(self, *generations):
        self.live = {
            str(1000 + n): Instance(str(1000 + n), "7", label_of("p/r1", n), "running", "", False, 0.2)
            for n in generations
        }
        self.controller, self.outcome, self.generation = None, None, max(generations, default=0)
        self.destroyed = []

    def list_instances(self, prefix):
        return [one for one in self.live.values() if one.label.startswith(prefix)]

    def describe(self, instance_id):
        return self.live.get(instance_id)

    def destroy(self, instance_id):
        self.destroyed.append(instance_id)
        self.live.pop(instance_id, None)

    def logs(self, instance_id):
        return ""

    def identity(self):
        return JOB

    def acquire_fence(self, generation):
        self.generation = generation

    def claim(self, record):
        self.controller = record

    def progress(self):
        return RemoteProgress(self.generation, self.outcome, "operator", 0, "running", self.controller)


def controller_on(cloud, tmp_path, **options):
    journal = Journal(tmp_path / "rented.jsonl")
    claim = new_claim(cloud, cloud.controller, JOB, journal.controllers)
    return Controller(
        cloud, MachineSpec(), cloud, "script", journal, QUICK, pause=lambda _: None, claim=claim, **options
    )


def fleet_of(cloud, journal):
    return Fleet(cloud, journal, JOB["run"], QUICK, lambda _: None)


class WatchedByAnother(Cloud):
    """Another controller takes the run over while a machine is looked at."""

    def describe(self, instance_id):
        self.controller = other(9, seen_at=NOW)
        return super().describe(instance_id)


def test_a_controller_that_is_taken_over_destroys_nothing_and_closes_its_launch(tmp_path):
    cloud = WatchedByAnother(1)
    first = controller_on(cloud, tmp_path, adopt_unknown=True)

    with pytest.raises(TakenOver):
        first.run()

    journal = Journal(tmp_path / "rented.jsonl")
    assert (cloud.destroyed, list(cloud.live)) == ([], ["1001"])
    assert (journal.open_job, journal.launches()[-1].machines[0].destroyed_at is None) == (None, False)
    assert cloud.controller == other(9, seen_at=NOW)


def test_a_controller_that_takes_over_goes_on_with_the_newest_machine_and_destroys_the_rest(tmp_path):
    cloud = Cloud(1, 2)
    cloud.outcome = (2, 0)
    second = controller_on(cloud, tmp_path, adopt_unknown=True)

    second.run()

    assert sorted(cloud.destroyed) == ["1001", "1002"]
    assert [machine.id for machine in Journal(tmp_path / "rented.jsonl").launches()[-1].machines] == ["1002"]
    assert cloud.controller is not None
    assert (cloud.controller.id, cloud.controller.seen_at) == (second.claim.record.id, 0)


def test_a_machine_that_no_journal_knows_is_named_before_it_is_destroyed(tmp_path, caplog):
    cloud = Cloud(1)

    assert fleet_of(cloud, Journal(tmp_path / "rented.jsonl")).adopt() is None

    assert cloud.destroyed == ["1001"]
    assert "instance 1001 of the run is not in" in caplog.text


@pytest.fixture
def kept(tmp_path):
    """The journal of a launch whose machine was kept."""
    journal = Journal(tmp_path / "rented.jsonl")
    journal.note("began", job=JOB)
    journal.note("renting", 1, label=label_of("p/r1", 1), offer={"id": 1, "machine_id": 7}, usd_per_hour=0.2)
    journal.note("rented", id="1001")
    journal.note("kept")
    journal.note("closed")
    return journal


def named(cloud, journal):
    name_kept(cloud, "", journal)
    return journal


def test_a_machine_that_was_kept_is_named_and_left_alone_by_the_next_launch(kept, caplog):
    cloud = Cloud(1)
    fleet = fleet_of(cloud, named(cloud, kept))

    assert fleet.adopt() is None
    fleet.destroy_all()

    assert cloud.destroyed == []
    assert "instance 1001 of an earlier launch was kept as asked" in caplog.text
    assert "`ups destroy 1001`" in caplog.text


def test_a_machine_that_was_kept_and_is_gone_is_noted_and_named_no_more(kept, caplog):
    named(Cloud(), kept)

    assert Journal(kept.path).kept_machines() == []
    assert caplog.text == ""


def test_a_machine_that_its_owner_destroys_is_noted(kept, tmp_path):
    Launches(tmp_path).note_destroyed("1001")

    assert Journal(kept.path).kept_machines() == []


def test_a_machine_that_may_not_write_any_more_is_not_gone_on_with(kept):
    cloud = Cloud(1, 2)
    kept.note("began", job=JOB)

    assert fleet_of(cloud, kept).adopt(fence=3) is None
    assert cloud.destroyed == ["1002"]


def test_a_launch_is_taken_over_into_a_folder_that_has_seen_more_machines(tmp_path):
    earlier = Journal(tmp_path / "rented.jsonl")
    earlier.note("began", job={**JOB, "run": "p/other"})
    earlier.note("renting", 2, label="ups-other-g2", offer={"id": 1, "machine_id": 7}, usd_per_hour=0.2)
    earlier.note("rented", id="77")
    earlier.note("kept")
    earlier.note("closed")
    cloud = Cloud(2)
    cloud.outcome = (2, 0)

    controller_on(cloud, tmp_path, adopt_unknown=True).run()

    there, here = Journal(tmp_path / "rented.jsonl").launches()
    assert [(machine.id, machine.destroyed_at is None) for machine in there.machines] == [("77", True)]
    assert [(machine.id, machine.destroyed_at is None) for machine in here.machines] == [("1002", False)]


def test_the_newest_order_counts_and_all_numbers_that_were_noted_are_known(kept):
    kept.note("began", job=JOB)
    kept.note("renting", 5, label="", offer={"id": 1, "machine_id": 7}, usd_per_hour=0.2)
    kept.note("renting", 3, label="", offer={"id": 1, "machine_id": 7}, usd_per_hour=0.2)

    journal = Journal(kept.path)

    assert (journal.generation, journal.highest) == (3, 5)


def test_a_controller_is_in_its_journal_before_it_names_itself_in_the_run(kept):
    kept.note("claims", controller="c1")

    assert Journal(kept.path).controllers == {"c1"}


class Undone:
    """A run whose config another writer replaces a few times, just after it was written."""

    def __init__(self, times, generation=1):
        self.times, self.generation, self.outcome, self.writes = times, generation, None, 0

    def record_exit(self, generation, code):
        self.writes += 1
        self.times -= 1
        self.outcome = None if self.times >= 0 else (generation, code)

    def progress(self):
        return progress(outcome=self.outcome, generation=self.generation)


def recorded(run):
    record(run, 1, 0, lambda _: None)
    return run


@pytest.mark.parametrize(("times", "writes"), [(0, 1), (2, 3)])
def test_how_a_machine_ended_is_written_until_it_is_there(times, writes):
    run = recorded(Undone(times))

    assert (run.outcome, run.writes) == ((1, 0), writes)


def test_a_machine_that_was_replaced_does_not_insist():
    assert recorded(Undone(9, generation=2)).writes == 1
