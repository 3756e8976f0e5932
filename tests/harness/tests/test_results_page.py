"""The page of results, and the tables of other pages, say what the committed rows say."""

import pytest

from harness.bench.results import PAGE, README, ROWS, TABLES, by_name, page, quickstart_table, with_tables
from tasks.services.stages.result_rows import read_row


def test_the_page_is_that_of_the_rows():
    assert PAGE.read_text("utf-8") == page(), "make results"


@pytest.mark.parametrize("path", TABLES, ids=[path.name for path in TABLES])
def test_the_tables_of_a_page_are_those_of_the_rows(path):
    text = path.read_text("utf-8")

    assert all(marker in text for marker in TABLES[path])
    assert text == with_tables(path), "make results"


def test_a_text_that_contradicts_a_row_is_noticed():
    changed = README.read_text("utf-8").replace("| rollout nRMSE, mean | 0.", "| rollout nRMSE, mean | 1.")

    assert "| rollout nRMSE, mean |" in quickstart_table()
    assert changed != with_tables(README, changed)


def test_every_row_says_how_it_was_made_and_is_on_the_page():
    text = "".join(path.read_text("utf-8") for path in (PAGE, *TABLES))

    for path in ROWS.rglob("*.json"):
        row = read_row(path)
        assert row.command.startswith("make bench-")
        assert row.commit
        assert row.machine
        assert row.command in text
    assert {"ks1d", "kolmogorov2d", "gray_scott2d", "diffusion_reaction2d"} <= set(by_name("problems"))
