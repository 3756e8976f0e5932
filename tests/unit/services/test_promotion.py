"""Promotion: who gets an alias, who does not, and that the reason is kept."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import numpy as np
import pytest

from tasks.services.stages.promotion import Refused, note_taken, promote, read_registry
from ups_models.errors import BadInput

GOOD, BAD = {"name": "error", "value": 0.1, "bound": 1.0}, {"name": "error", "value": 2.0, "bound": 1.0}
ERRORS = np.linspace(0.01, 0.03, 40)


@pytest.fixture
def evaluated(finished_run, tmp_path):
    """A copy of the finished run whose evaluation found these errors."""

    def make(name, errors=ERRORS, *, checks=(GOOD,), rows=None, weights="a", trained="", tracked=False):
        root = shutil.copytree(finished_run, tmp_path / name)
        path = root / "reports" / "full_eval.json"
        result = json.loads(path.read_text("utf-8"))
        result["checks"] = list(checks)
        digest = sha256((weights + name).encode()).hexdigest()
        result["checkpoints"] = {"operator": {"file": "operator_ema.pt", "sha256": digest}}
        path.write_text(json.dumps(result), "utf-8")
        status = json.loads((root / "checkpoints" / "stage_status.json").read_text("utf-8"))
        status["stages"]["operator"]["files"]["operator_ema.pt"]["sha256"] = trained or digest
        status["wandb"] = {"id": name, "project": "p", "entity": "e"} if tracked else None
        (root / "checkpoints" / "stage_status.json").write_text(json.dumps(status), "utf-8")
        digests = np.array([f"row{number}" for number in range(len(errors))] if rows is None else rows)
        np.savez(root / "reports" / "full_eval.npz", row_errors=errors, row_digests=digests)
        return root

    return make


@pytest.fixture
def registry(tmp_path):
    return tmp_path / "somewhere" / "registry.json"


def test_the_first_run_whose_checks_pass_gets_the_alias(evaluated, registry):
    holder, displaced, reason = promote(evaluated("a"), "best", registry)

    assert displaced == ()
    assert reason == "all of its 1 checks pass, and nobody held it"
    assert read_registry(registry).holders["best"] == holder


def test_a_better_run_takes_it_and_the_reason_says_by_how_much(evaluated, registry):
    promote(evaluated("a"), "best", registry)

    holder, _, reason = promote(evaluated("b", 0.9 * ERRORS), "best", registry)

    assert holder.run.endswith("/b")
    assert "error 0.018 against 0.02 of" in reason
    assert "on the same 40 rows, difference -0.002 [" in reason
    assert [event.promoted for event in read_registry(registry).history] == [True, True]


@pytest.mark.parametrize("errors", [ERRORS[::-1], 1.1 * ERRORS], ids=["as good", "worse"])
def test_what_is_not_better_beyond_chance_is_refused_and_noted(evaluated, registry, errors):
    promote(evaluated("a"), "best", registry)

    with pytest.raises(Refused, match=r"does not become best: error .* no improvement beyond chance"):
        promote(evaluated("b", errors), "best", registry)

    found = read_registry(registry)
    assert found.holders["best"].run.endswith("/a")
    assert [event.promoted for event in found.history] == [True, False]


@pytest.mark.parametrize(("checks", "said"), [([GOOD, BAD], "1 of its 2 checks fail: error"), ([], "nothing judged")])
def test_a_run_whose_checks_fail_is_refused_however_good_it_is(evaluated, registry, checks, said):
    with pytest.raises(Refused, match=said):
        promote(evaluated("a", checks=checks), "best", registry)

    assert read_registry(registry).holders == {}


def test_runs_of_other_test_rows_cannot_be_compared(evaluated, registry):
    promote(evaluated("a"), "best", registry)
    other = evaluated("b", 0.1 * ERRORS, rows=[f"row{number}" for number in range(20, 60)])

    with pytest.raises(Refused, match=r"were evaluated on other test rows \(20 in common\)"):
        promote(other, "best", registry)

    assert [event.promoted for event in read_registry(registry).history] == [True, False]


SHORT = '{"holders": {"best": {"run": "a", "errors": [1], "rows": []}}}'


@pytest.mark.parametrize("text", ["hello", "", "[]", '{"holders": 3}', SHORT])
def test_what_is_no_registry_is_one_sentence(evaluated, registry, text):
    registry.parent.mkdir()
    registry.write_text(text, "utf-8")

    with pytest.raises(BadInput, match=r"registry\.json: is no registry: .*choose another --registry"):
        promote(evaluated("a"), "best", registry)


def test_to_promote_the_holder_again_changes_nothing(evaluated, registry):
    run = evaluated("a")
    before, _, _ = promote(run, "best", registry)

    holder, _, reason = promote(run, "best", registry)

    assert (holder, reason) == (before, "it holds it already")


def test_who_held_it_is_to_lose_it_in_wandb_until_that_has_happened(evaluated, registry):
    run = evaluated("b", 0.9 * ERRORS, tracked=True)
    promote(evaluated("a", tracked=True), "best", registry)

    first, again = (promote(run, "best", registry)[1] for _ in range(2))
    note_taken(registry, "best", "e/p/a")

    assert first == again == ("e/p/a",)
    assert promote(run, "best", registry)[1] == ()


def test_a_run_that_was_trained_again_since_its_evaluation_was_not_evaluated(evaluated, registry):
    with pytest.raises(BadInput, match="holds no run that was evaluated"):
        promote(evaluated("a", trained="0" * 64), "best", registry)


def test_a_handful_of_rows_tells_no_two_runs_apart(evaluated, registry):
    promote(evaluated("a", ERRORS[:3]), "best", registry)

    with pytest.raises(Refused, match="3 test rows cannot tell two runs apart; evaluate at least 8"):
        promote(evaluated("b", 0.5 * ERRORS[:3]), "best", registry)


def test_two_aliases_have_two_holders(evaluated, registry):
    promote(evaluated("a"), "best", registry)
    promote(evaluated("b", 2 * ERRORS), "small", registry)

    assert {alias: one.run[-1] for alias, one in read_registry(registry).holders.items()} == {"best": "a", "small": "b"}


def test_of_many_that_promote_at_once_none_is_lost(evaluated, registry):
    runs = [evaluated(f"r{number}", (1 - 0.1 * number) * ERRORS) for number in range(6)]

    def attempt(run):
        try:
            promote(run, "best", registry)
        except Refused:
            return

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(attempt, runs))

    found = read_registry(registry)
    assert len(found.history) == 6
    assert found.holders["best"].run.endswith("/r5")


@pytest.mark.parametrize("alias", ["latest", "v3", "a b", "", "-x", "a" * 65])
def test_what_is_no_alias_is_refused(evaluated, registry, alias):
    with pytest.raises(BadInput, match="is no alias"):
        promote(evaluated("a"), alias, registry)


def test_an_evaluation_of_an_earlier_version_must_be_made_again(evaluated, registry):
    run = evaluated("a")
    np.savez(run / "reports" / "full_eval.npz", x=ERRORS)

    with pytest.raises(BadInput, match="does not say how each row did; evaluate it again"):
        promote(run, "best", registry)


def test_the_command_promotes_refuses_and_shows_what_happened(ups, evaluated, here):
    run, other = evaluated("a"), evaluated("b", 2 * ERRORS)

    first, second, shown = ups("promote", str(run)), ups("promote", str(other)), ups("promote")

    assert (first.returncode, second.returncode, shown.returncode) == (0, 2, 0)
    assert first.stdout.endswith("a is best: all of its 1 checks pass, and nobody held it\n")
    assert "no improvement beyond chance" in second.stderr
    assert shown.stdout.splitlines()[0].split()[-1] == "why"
    assert shown.stdout.count("best") == 2
    assert ups("promote", "--registry", "none.json").returncode == 2


def test_a_real_evaluation_says_how_each_row_did(finished_run, smoke_result):
    with np.load(finished_run / "reports" / "full_eval.npz") as arrays:
        errors, digests = arrays["row_errors"], arrays["row_digests"]

    assert errors.mean() == pytest.approx(smoke_result.rollout.summary["operator"].mean)
    assert len(set(digests.tolist())) == len(errors) == smoke_result.trajectories
