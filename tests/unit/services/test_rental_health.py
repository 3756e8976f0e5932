"""Whether a rented machine is still of use, row by row: no provider, no run, no clock."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.services.rental.health import (
    START,
    End,
    Observation,
    Verdict,
    is_final_refusal,
    verdict_of,
    verdict_on_exit,
)
from tasks.services.rental.limits import BudgetSpent, Limits
from tasks.services.rental.machine_log import MAX_LINE, exit_code_in, last_line_of, signs_in, traffic_in
from tasks.services.run.phase import PHASES, announce

LIMITS = Limits(boot_timeout_s=100, silence_timeout_s=1000, lost_after_s=30)
AT_WORK = ("operator", 10)
TWICE = "the same error twice at"


def seen(*looks):
    """An observation after these looks (seconds, state, position), from second 0 on."""
    observation = Observation.begin(0.0)
    for now, state, position in looks:
        observation = observation.then(state, "a detail", position, now)
    return observation


@pytest.mark.parametrize(
    ("looks", "end"),
    [
        pytest.param([(0, "booting", START)], None, id="booting"),
        pytest.param([(0, "booting", START), (100, "booting", START)], None, id="booting-to-the-last-second"),
        pytest.param([(0, "booting", START), (101, "booting", START)], "broken", id="boots-too-long"),
        pytest.param([(0, "failed", START)], "broken", id="image-does-not-start"),
        pytest.param([(0, "away", START), (29, "away", START)], None, id="away-before-it-ran"),
        pytest.param([(0, "away", START), (30, "away", START)], "lost", id="lost-before-it-ran"),
        pytest.param([(99, "running", START), (500, "running", START)], None, id="running"),
        pytest.param([(0, "running", START), (1000, "running", START)], None, id="idle-to-the-last-second"),
        pytest.param([(0, "running", START), (1001, "running", START)], "broken", id="stalled"),
        pytest.param([(0, "running", START), (900, "running", AT_WORK), (1800, "running", AT_WORK)], None, id="moves"),
        pytest.param(
            [(0, "running", AT_WORK), (900, "booting", AT_WORK), (1800, "booting", AT_WORK)], None, id="starts-again"
        ),
        pytest.param(
            [(0, "running", AT_WORK), (5, "away", AT_WORK), (34, "away", AT_WORK)], None, id="away-for-a-while"
        ),
        pytest.param([(0, "running", AT_WORK), (5, "away", AT_WORK), (35, "away", AT_WORK)], "lost", id="taken-away"),
        pytest.param([(0, "running", AT_WORK), (5, "failed", AT_WORK), (35, "failed", AT_WORK)], "lost", id="outbid"),
        pytest.param(
            [(0, "running", AT_WORK), (5, "away", AT_WORK), (30, "running", AT_WORK), (40, "away", AT_WORK)],
            None,
            id="away-twice-is-counted-anew",
        ),
    ],
)
def test_what_is_observed_decides_whether_a_machine_is_of_use(looks, end):
    verdict = verdict_of(seen(*looks), LIMITS)

    assert (verdict.end if verdict is not None else None) == end


def test_only_a_machine_that_never_ran_is_not_rented_again():
    looks = {"never up": [(0, "failed", START)], "stalled": [(0, "running", START), (1001, "running", START)]}

    verdicts = {name: verdict_of(seen(*rows), LIMITS) for name, rows in looks.items()}

    assert verdicts == {
        "never up": Verdict("broken", "did not come up (a detail)", exclude=True),
        "stalled": Verdict("broken", "did nothing for 1001 s that could be seen"),
    }


def test_a_look_leaves_the_observation_before_it_as_it_was():
    before = seen((0, "booting", START))

    after = before.then("running", "", AT_WORK, 7.0)

    assert (before.state, before.was_running, before.position) == ("booting", False, START)
    assert (after.state, after.was_running, after.position, after.moved_at) == ("running", True, AT_WORK, 7.0)


PHASE_LIMITS = Limits(
    install_timeout_s=30,
    download_timeout_s=60,
    data_timeout_s=90,
    evaluation_timeout_s=70,
    stall_max_s=50,
    stall_min_s=20,
    silence_timeout_s=500,
    gone_after_s=240,
    lost_after_s=30,
)


def watched(*looks):
    """An observation of a running machine after these looks (seconds, position or None, log lines), from second 0."""
    observation = Observation.begin(0.0)
    for now, position, lines in looks:
        observation = observation.then("running", "a detail", position, now, signs_in(lines))
    return observation


def silent(phase, *, since, until, every=10, position=START):
    """Looks at a machine that announced a phase and shows nothing more."""
    return [(now, position, [f"ups-onstart: phase {phase}"]) for now in range(since, until + 1, every)]


@pytest.mark.parametrize(
    ("phase", "limit_s"), [("installing", 30), ("downloading", 60), ("data", 90), ("evaluation", 70), ("training", 50)]
)
def test_each_phase_may_be_silent_for_so_long_and_no_longer(phase, limit_s):
    in_time = watched(*silent(phase, since=0, until=limit_s))
    too_late = watched(*silent(phase, since=0, until=limit_s + 10))

    assert verdict_of(in_time, PHASE_LIMITS) is None
    verdict = verdict_of(too_late, PHASE_LIMITS)
    assert verdict is not None
    assert (verdict.end, verdict.exclude) == ("broken", False)
    assert f"did nothing for {limit_s + 10} s " in verdict.why


@pytest.mark.parametrize("phase", PHASES)
def test_a_growing_log_is_a_sign_of_life(phase):
    looks = [(10 * n, START, [f"ups-onstart: phase {phase}", *(f"line {k}" for k in range(n))]) for n in range(50)]

    assert verdict_of(watched(*looks), PHASE_LIMITS) is None


@pytest.mark.parametrize("phase", PHASES)
def test_heartbeats_are_no_sign_of_work_though_they_push_old_lines_out_of_sight(phase):
    def log(beats):
        return [f"ups-onstart: phase {phase}", "a", "b", *(f"ups-onstart: alive {n} s" for n in range(beats))][-20:]

    looks = [(10 * n, START, log(n)) for n in range(60)]

    verdict = verdict_of(watched(*looks), PHASE_LIMITS)

    assert verdict is not None
    assert "did nothing" in verdict.why


def test_a_training_is_silent_for_ten_of_its_steps_within_the_two_limits():
    def stalled(step_s, idle_s):
        steps = [(n * step_s, ("operator", n), ["phase training"]) for n in range(5)]
        end = 4 * step_s
        return watched(*steps, *((end + s, ("operator", 4), ["x phase training"]) for s in (0, idle_s)))

    def limit(step_s):
        return next(idle for idle in range(200) if verdict_of(stalled(step_s, idle), PHASE_LIMITS) is not None) - 1

    assert [limit(step_s) for step_s in (1, 2, 3, 4, 5, 8)] == [20, 20, 30, 40, 50, 50]


def test_the_shipped_limits_of_a_silent_stall_are_two_and_ten_minutes():
    limits = Limits()

    assert [limits.silence("training", step_s) for step_s in (None, 1, 12, 30, 60, 3600)] == [
        600,
        120,
        120,
        300,
        600,
        600,
    ]
    assert [limits.silence(phase, 1.0) for phase in ("installing", "downloading", "data", "evaluation", None)] == [
        1800,
        7200,
        21600,
        7200,
        3600,
    ]


@given(pauses_s=st.lists(st.integers(1, 120), max_size=40))
def test_a_silent_stall_is_noticed_within_ten_minutes_and_no_pause_of_two_is_taken_for_one(pauses_s):
    limits, now, observation, early = Limits(), 0.0, watched((0, ("operator", 0), ["x phase training"])), []
    for step, pause_s in enumerate(pauses_s, start=1):
        now += pause_s
        early.append(verdict_of(observation.then("running", "", ("operator", step - 1), now, observation.log), limits))
        observation = observation.then("running", "", ("operator", step), now, observation.log)

    noticed_s = next(
        silent_s
        for silent_s in range(10, 2000, 10)
        if verdict_of(observation.then("running", "", observation.position, now + silent_s, observation.log), limits)
    )

    assert not any(early)
    assert 120 < noticed_s <= 610


def test_the_way_from_one_stage_to_the_next_is_no_step():
    looks = [(0, ("operator", 9), ["x"]), (1, ("operator", 10), ["x"]), (4000, ("diff_residual", 1), ["x"])]

    assert watched(*looks).step_s == 1


def test_a_machine_that_is_away_between_two_steps_does_not_make_steps_look_long():
    looks = [(0, "running", 1), (1, "running", 2), (2, "away", 2), (60, "running", 3), (62, "running", 4)]

    assert seen(*((now, state, ("operator", step)) for now, state, step in looks)).step_s == 2


def test_steps_say_that_a_machine_lives_though_its_log_is_silent():
    looks = [(10 * n, ("operator", n), ["x phase training"]) for n in range(50)]

    assert verdict_of(watched(*looks), PHASE_LIMITS) is None


def beating(until, *, gone_at):
    """Looks at a container whose heartbeat, one a minute, stops."""
    return [
        (
            now,
            ("operator", 3),
            ["x phase data", *(f"ups-onstart: alive {s} s" for s in range(0, min(now, gone_at), 60))],
        )
        for now in range(0, until + 1, 10)
    ]


def test_a_container_whose_processes_are_gone_is_noticed_within_five_minutes():
    limits = Limits()
    noticed = next(
        until for until in range(0, 2000, 10) if verdict_of(watched(*beating(until, gone_at=601)), limits) is not None
    )

    assert noticed - 600 <= 300
    assert verdict_of(watched(*beating(noticed, gone_at=601)), limits) == Verdict(
        "broken", "has lost the processes of its job (no heartbeat for 250 s)", exclude=True
    )
    assert verdict_of(watched(*beating(2000, gone_at=3000)), limits) is None


def test_a_heartbeat_that_was_never_seen_is_not_missed():
    assert verdict_of(watched(*silent("data", since=0, until=2000)), Limits()) is None


def test_a_container_that_starts_again_is_given_time_for_its_first_heartbeat():
    observation = watched(*beating(300, gone_at=301))
    for now, state in ((310, "away"), (330, "booting"), (600, "running"), (700, "running")):
        observation = observation.then(state, "", ("operator", 3), float(now), signs_in(["x phase data"]))

    assert verdict_of(observation, Limits()) is None


@pytest.mark.parametrize("phase", PHASES)
def test_a_log_that_cannot_be_read_is_neither_silence_nor_a_missing_heartbeat(phase):
    looks = [*silent(phase, since=0, until=20), (20, START, ["x", "ups-onstart: alive 20 s"])]
    unread: list[tuple[int, tuple[str, int], list[str]]] = [(now, START, []) for now in range(30, 500, 10)]

    assert verdict_of(watched(*looks, *unread), PHASE_LIMITS) is None
    verdict = verdict_of(watched(*looks, *unread, (600, START, [])), PHASE_LIMITS)
    assert verdict is not None
    assert "that could be seen" in verdict.why


def test_one_log_that_cannot_be_read_does_not_shorten_the_limit_of_a_phase():
    looks = silent("data", since=0, until=4000)

    assert verdict_of(watched(*looks, (4010, START, [])), Limits()) is None


def test_neither_run_nor_log_answering_proves_nothing():
    looks = [*silent("training", since=0, until=40), *((now, None, []) for now in range(50, 5000, 10))]

    assert verdict_of(watched(*looks), PHASE_LIMITS) is None


def test_a_run_that_cannot_be_asked_for_a_moment_is_no_sign_of_life():
    position = ("operator", 5)
    looks = [
        (now, None if now % 20 else position, ["phase training", "ups phase training"]) for now in range(0, 70, 10)
    ]

    verdict = verdict_of(watched(*looks), PHASE_LIMITS)

    assert verdict is not None
    assert "did nothing for 60 s in training" in verdict.why


@pytest.mark.parametrize(("lasted_s", "final"), [(0, False), (299, False), (300, True)])
def test_a_refused_key_counts_once_it_has_lasted(lasted_s, final):
    assert is_final_refusal(1000, 1000 + lasted_s, Limits()) is final


@pytest.mark.parametrize(
    ("lines", "phase", "beat"),
    [
        (["ups-onstart: phase installing"], "installing", ""),
        (["ups-onstart: phase downloading", "10:15:02 INFO    phase training\r"], "training", ""),
        (["10:15:02 INFO    phase data", "ups-onstart: alive 60 s"], "data", "ups-onstart: alive 60 s"),
        (["the phase of training", "phase unknown", "next phase training?"], None, ""),
    ],
)
def test_phase_and_heartbeat_are_read_from_the_log(lines, phase, beat):
    signs = signs_in(lines)

    assert signs is not None
    assert (signs.phase, signs.beat) == (phase, beat)
    assert all("alive" not in line for line in signs.lines)


@pytest.mark.parametrize(
    ("beat", "traffic"),
    [("alive 60 s received 12 sent 3", (12, 3)), ("alive 60 s", None), ("alive 60 s received -1 sent 3", None)],
)
def test_a_heartbeat_may_tell_the_traffic(beat, traffic):
    signs = signs_in([f"ups-onstart: {beat}"])

    assert signs is not None
    assert traffic_in(signs) == traffic


def test_an_empty_log_shows_nothing():
    assert signs_in([]) is None


@pytest.mark.parametrize("phase", PHASES)
def test_what_the_job_announces_is_what_the_controller_reads(phase, caplog, monkeypatch):
    caplog.set_level("INFO", logger="tasks")
    announce(phase)
    here = list(caplog.messages)
    monkeypatch.setenv("UPS_GENERATION", "1")
    announce(phase)

    assert here == []
    signs = signs_in([f"10:00:00 INFO    {caplog.messages[0]}"])
    assert signs is not None
    assert signs.phase == phase


@pytest.mark.parametrize(
    ("code", "failed_at", "verdict"),
    [
        (0, None, Verdict("completed")),
        (75, AT_WORK, Verdict("preempted", "was preempted")),
        (76, AT_WORK, Verdict("broken", "had no CUDA device (exit code 76)", exclude=True)),
        (77, None, Verdict("broken", "could not fetch or install its job (exit code 77)", exclude=True)),
        (2, None, Verdict("failed", "ended with exit code 2", fatal="exit code 2, bad input")),
        (1, None, Verdict("failed", "ended with exit code 1")),
        (1, ("operator", 0), Verdict("failed", "ended with exit code 1")),
        (9, AT_WORK, Verdict("failed", "ended with exit code 9", fatal=f"exit code 9, {TWICE} operator step 10")),
    ],
)
def test_an_exit_code_decides_what_follows(code, failed_at, verdict):
    assert verdict_on_exit(code, AT_WORK, failed_at) == verdict


def test_an_error_before_the_first_step_is_at_the_start():
    assert verdict_on_exit(1, START, START).fatal == "exit code 1, the same error twice at the start"


def test_only_errors_of_ours_are_counted():
    assert [end for end in get_args(End) if Verdict(end).is_error] == ["broken", "failed"]


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([], None),
        (["operator 12/30"], None),
        (["ups-onstart: exit 0 generation 3"], 0),
        (["ups-onstart: exit 1 generation 2"], None),
        (["ups-onstart: exit 1 generation 3", "restarted", "ups-onstart: exit 75 generation 3\r"], 75),
        (["12:00 ups-onstart: exit 2 generation 13", "x"], None),
    ],
)
def test_the_newest_exit_code_of_this_generation_is_read_from_the_log(lines, code):
    assert exit_code_in(lines, 3) == code


def test_the_last_line_is_the_jobs_own_and_fit_to_be_quoted():
    long = "x" * 1000

    assert last_line_of("a\n  ups: no \x1b[31mfield \n\nups-onstart: exit 2 generation 1\n") == "ups: no field"
    assert last_line_of("ups-onstart: exit 2 generation 1\n") == ""
    assert last_line_of(long) == long[: MAX_LINE - 1] + "…"


@pytest.mark.parametrize(
    ("spent", "named"),
    [
        ({"usd": 5.0, "hours": 0}, "--max-total-cost of 5 USD"),
        ({"usd": 0, "hours": 2.0}, "--max-hours of 2"),
        ({"usd": 0, "hours": 0, "machines": 3}, "the limit of 3 machines"),
    ],
)
def test_a_limit_that_is_reached_is_named_with_the_run_to_go_on_with(spent, named):
    limits = Limits(max_usd=5, max_hours=2, max_machines=3)

    with pytest.raises(BudgetSpent, match=rf"{named}.*--resume-from-wandb p/r1"):
        limits.require_budget("p/r1", **spent)


def test_below_every_limit_nothing_is_said():
    Limits(max_usd=5, max_hours=2, max_machines=3).require_budget("p/r1", usd=4.9, hours=1.9, machines=2)


def test_the_pauses_between_failures_grow_to_the_longest():
    limits = Limits(backoff_s=(1.0, 2.0))

    assert [limits.backoff(failures) for failures in range(4)] == [1.0, 2.0, 2.0, 2.0]
