"""The page of results, and the README's table, say what the committed rows say."""

from harness.bench.results import PAGE, README, ROWS, by_name, page, quickstart_table, readme
from tasks.services.stages.result_rows import read_row


def test_the_page_is_that_of_the_rows():
    assert PAGE.read_text("utf-8") == page(), "make results"


def test_the_table_of_the_readme_is_that_of_the_rows():
    assert README.read_text("utf-8") == readme(), "make results"
    assert "| rollout nRMSE, mean |" in quickstart_table()


def test_a_text_that_contradicts_a_row_is_noticed(tmp_path, monkeypatch):
    changed = tmp_path / "README.md"
    changed.write_text(
        README.read_text("utf-8").replace("| rollout nRMSE, mean | 0.", "| rollout nRMSE, mean | 1."), "utf-8"
    )
    monkeypatch.setattr("harness.bench.results.README", changed)

    assert changed.read_text("utf-8") != readme()


def test_every_row_says_how_it_was_made_and_is_on_the_page():
    text = PAGE.read_text("utf-8")

    for path in ROWS.rglob("*.json"):
        row = read_row(path)
        assert row.command.startswith("make bench-")
        assert row.commit
        assert row.machine
        assert row.command in text
    assert {"ks1d", "kolmogorov2d", "gray_scott2d", "diffusion_reaction2d"} <= set(by_name("problems"))
