"""What a run makes of damage and of parts of another run, in a sample; `make trust` tries all."""

from pathlib import Path

from harness.chaos.checks import outcome
from harness.trust import damage, mixed
from tasks.services.run.paths import RunDir

SAMPLE = 13
"""Prime to the numbers of files and of damages: a sample holds every kind."""


def test_a_damaged_file_costs_itself_or_is_named(tmp_path):
    verdicts = damage.damage_all(tmp_path, SAMPLE)

    assert len({verdict.case.damage for verdict in verdicts}) == len(damage.DAMAGES)
    assert [f"{verdict.case}: {verdict.wrong}" for verdict in verdicts if verdict.wrong] == []


def test_parts_of_two_runs_are_never_mixed(tmp_path):
    pairs = mixed.pairs_of_runs(tmp_path)
    here, other = (outcome(RunDir.of(pairs[name][0], Path("checkpoints"))) for name in ("this", "another seed"))
    assert here != other

    verdicts = mixed.mix_all(tmp_path, pairs, SAMPLE)

    assert {verdict.ended for verdict in verdicts} > {"refused"}
    assert [f"{verdict.case}: {verdict.wrong}" for verdict in verdicts if verdict.wrong] == []
