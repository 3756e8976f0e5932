"""The page of results says what the committed rows say."""

import json

from harness.bench.results import PAGE, ROWS, page, rows_by_problem


def test_the_page_is_that_of_the_rows():
    assert PAGE.read_text("utf-8") == page(), "make results"


def test_every_row_says_how_it_was_made_and_is_on_the_page():
    text = PAGE.read_text("utf-8")

    for path in ROWS.glob("*.json"):
        row = json.loads(path.read_text("utf-8"))
        assert row["command"].startswith("make bench-problems")
        assert row["commit"]
        assert row["machine"]
        assert row["command"] in text
    assert {"ks1d", "kolmogorov2d", "gray_scott2d", "diffusion_reaction2d"} <= set(rows_by_problem())
