"""An evaluation as Markdown, for a terminal or a pull request."""

from collections.abc import Sequence

from ups_models.evaluation.result import EvaluationResult
from ups_models.report.model import Section, Table
from ups_models.report.sections import sections
from ups_models.report.tables import check_table, checkpoint_table
from ups_models.report.words import CAVEATS, describe, verdict

HARMLESS = (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("*", "\\*"), ("`", "\\`"), ("](", "]\\("))


def render_markdown(result: EvaluationResult) -> str:
    """The same numbers as on the page."""
    lines = [
        f"# {_plain(result.name)}",
        "",
        f"**{_plain(verdict(result).text)}**",
        "",
        _plain("; ".join(describe(result))),
        "",
    ]
    checks, checkpoints = check_table(result), checkpoint_table(result)
    lines += _table(checks) if checks.rows else []
    for section in sections(result, {}):
        lines += _section(section)
    lines += ["## Caveats", "", *(f"- {_plain(caveat)}" for caveat in CAVEATS), ""]
    lines += ["## Checkpoints", "", *_table(checkpoints)] if checkpoints.rows else []
    return "\n".join(lines).rstrip() + "\n"


def _section(section: Section) -> list[str]:
    if not section.tables and not section.missing:
        return []
    lines = [f"## {section.title}", ""]
    lines += [section.intro, ""] if section.intro and section.tables else []
    for table in section.tables:
        lines += _table(table)
    for sentence in section.missing:
        lines += [f"*{_plain(sentence)}*", ""]
    return lines


def _table(table: Table) -> list[str]:
    lines = [f"{table.title}:", "", _row(table.columns), _row(["---", *["---:"] * (len(table.columns) - 1)])]
    for i, row in enumerate(table.rows):
        cells = (_plain(cell) for cell in row)
        lines.append(_row([f"**{cell}**" if (i, j) in table.best else cell for j, cell in enumerate(cells)]))
    return [*lines, "", *([table.note, ""] if table.note else [])]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Text of the data, with what Markdown or HTML would act on made harmless."""
    flat = " ".join(text.split())
    for mark, harmless in HARMLESS:
        flat = flat.replace(mark, harmless)
    return flat
