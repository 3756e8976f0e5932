"""A budget that several launches share."""

import json

import pytest

from tasks.services.rental.budget import Budget
from tasks.services.rental.limits import BudgetSpent
from ups_models.errors import BadInput, ConfigError


@pytest.fixture
def budget_of(tmp_path):
    def make(text, launch="r1"):
        path = tmp_path / "budget.yaml"
        path.write_text(text, encoding="utf-8")
        return Budget.of(path, launch)

    return make


def test_what_a_launch_has_spent_is_noted_in_pieces_and_once(budget_of):
    budget = budget_of("usd: 1")
    for spent in (0.005, 0.02, 0.02, 0.024, 0.05):
        budget.settle(spent)
    budget.settle(0.053, at_end=True)
    budget.settle(0.053, at_end=True)

    noted = [json.loads(line)["usd"] for line in budget.ledger.read_text("utf-8").splitlines()]
    assert noted == pytest.approx([0.02, 0.03, 0.003])


def test_what_is_spent_and_not_yet_noted_counts(budget_of):
    budget = budget_of("usd: 0.002")
    budget.settle(0.003)

    assert not budget.ledger.exists()
    with pytest.raises(BudgetSpent):
        budget.require(0.003)


def test_all_launches_spend_it_together(budget_of):
    first, second = budget_of("usd: 1", "r1"), budget_of("usd: 1", "r2")
    first.settle(0.6)
    second.settle(0.39)
    second.require()
    second.settle(0.41)

    with pytest.raises(BudgetSpent, match=r"its 1 USD in all are spent \(1\.01 USD, see .*spent\.jsonl"):
        first.require()


def test_a_day_has_its_own_limit_and_the_days_before_do_not_count(budget_of):
    budget = budget_of("usd: 100\nusd_per_day: 1")
    line = json.dumps({"launch": "r0", "usd": 5.0, "at": "2020-01-01T00:00:00Z"})
    budget.ledger.write_text(f"{line}\n", encoding="utf-8")
    budget.require()
    budget.settle(1.5)

    with pytest.raises(BudgetSpent, match="or tomorrow"):
        budget.require()


def test_a_launch_that_was_killed_notes_only_what_is_new(budget_of):
    budget_of("usd: 1").settle(0.4)
    budget_of("usd: 1").settle(0.5)

    noted = [json.loads(line)["usd"] for line in budget_of("usd: 1").ledger.read_text("utf-8").splitlines()]
    assert noted == pytest.approx([0.4, 0.1])


@pytest.mark.parametrize(
    ("text", "said"), [("", "holds no limit"), ("usd: -1", "usd"), ("euros: 5", "euros"), ("usd: .inf", "usd")]
)
def test_a_file_without_a_sound_limit_is_refused(budget_of, text, said):
    with pytest.raises((BadInput, ConfigError), match=said):
        budget_of(text)


def test_what_no_machine_can_start_with_is_refused(budget_of):
    budget = budget_of("usd: 1\nusd_per_day: 0.5")
    budget.settle(0.49)

    budget.require_start(0.01)
    with pytest.raises(
        BadInput, match=r"0\.010 USD of it are left, and the start of one machine alone costs 0\.020 USD"
    ):
        budget.require_start(0.02)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadInput, match="is no file; write `usd: 50`"):
        Budget.of(tmp_path, "r1")
    with pytest.raises(BadInput, match="there is no such file; write `usd: 50`"):
        Budget.of(tmp_path / "none.yaml", "r1")
