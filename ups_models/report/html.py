"""Reports of an evaluation: Markdown for a terminal or a pull request, one self-contained HTML page for a reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ups_models.report.figures import Arrays, History, pictures
from ups_models.report.tables import (
    CAVEATS,
    Result,
    Section,
    Table,
    check_schema,
    checkpoint_table,
    describe,
    gate_table,
    sections,
    timing_table,
    verdict,
)

WITHOUT_TABLES: Mapping[str, tuple[str, str]] = {
    "panels": ("Space and time", "no trajectories were stored"),
    "spectrum": ("Spectra", "no spectra were stored"),
    "members": ("One ensemble", "no ensemble was stored; diff_residual may be disabled"),
}
ORDER = ("panels", "horizon", "field", "spectrum", "ensemble", "members", "darcy")


@dataclass(frozen=True)
class ReportInput:
    """All that a report shows: evaluations as read from JSON, arrays to draw, and where they come from."""

    title: str
    small: Result | None
    full: Result | None
    arrays: Arrays
    history: History
    config_yaml: str
    environment: Mapping[str, str]
    timings: Sequence[Mapping[str, Any]]


def render_html(report: ReportInput) -> str:
    """One page without external resources; equal input gives equal bytes."""
    evaluations = [result for result in (report.full, report.small) if result is not None]
    for result in evaluations:
        check_schema(result)
    main: Result = evaluations[0] if evaluations else {}
    status = {str(row.get("stage")): str(row.get("status")) for row in report.timings}
    by_key = {section.key: section for section in sections(main, status)}
    drawn = pictures(main, report.arrays, report.history)
    environment = Environment(
        loader=PackageLoader("ups_models.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        report=report,
        main=main,
        facts=describe(main),
        verdicts=[(result.get("name", "evaluation"), verdict(result)) for result in evaluations],
        gates=gate_table(main),
        headline=by_key["headline"],
        body=[by_key.get(key) or _drawn_only(key, bool(drawn[key])) for key in ORDER],
        pictures=drawn,
        timing=timing_table(report.timings),
        checkpoints=checkpoint_table(main),
        honesty=CAVEATS,
        second=_second(evaluations, status),
    )


def render_markdown(result: Result) -> str:
    """One evaluation as Markdown, with the same figures as the page."""
    check_schema(result)
    name = result.get("name", "evaluation")
    lines = [
        f"# {_plain(name)}",
        "",
        f"**{_plain(verdict(result).text)}**",
        "",
        _plain("; ".join(describe(result))),
        "",
    ]
    gates, checkpoints = gate_table(result), checkpoint_table(result)
    lines += _markdown_table(gates) if gates.rows else []
    for section in sections(result, {}):
        lines += _markdown_section(section)
    lines += ["## Notes on honesty", "", *(f"- {_plain(note)}" for note in CAVEATS), ""]
    lines += ["## Checkpoints", "", *_markdown_table(checkpoints)] if checkpoints.rows else []
    return "\n".join(lines).rstrip() + "\n"


def _second(evaluations: Sequence[Result], status: Mapping[str, str]) -> tuple[str, tuple[Table, ...]] | None:
    """The small evaluation beside the full one: its name and its short tables."""
    if len(evaluations) < 2:
        return None
    small = evaluations[1]
    headline = next(section for section in sections(small, status) if section.key == "headline")
    gates = gate_table(small)
    facts = ", ".join(describe(small)[:3])
    return f"{small.get('name', 'small evaluation')} ({facts})", (*((gates,) if gates.rows else ()), *headline.tables)


def _drawn_only(key: str, drawn: bool) -> Section:
    title, reason = WITHOUT_TABLES[key]
    return Section(key, title, missing=() if drawn else (f"Not drawn: {reason}.",))


def _markdown_section(section: Section) -> list[str]:
    if not section.tables and not section.missing:
        return []
    lines = [f"## {section.title}", ""]
    lines += [section.intro, ""] if section.intro and section.tables else []
    for table in section.tables:
        lines += _markdown_table(table)
    for sentence in section.missing:
        lines += [f"*{_plain(sentence)}*", ""]
    return lines


def _markdown_table(table: Table) -> list[str]:
    lines = [f"{table.title}:", "", _row(table.columns), _row(["---", *["---:"] * (len(table.columns) - 1)])]
    for i, row in enumerate(table.rows):
        cells = (_plain(cell) for cell in row)
        lines.append(_row([f"**{cell}**" if (i, j) in table.best else cell for j, cell in enumerate(cells)]))
    return [*lines, "", *([table.note, ""] if table.note else [])]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: Any) -> str:
    """Text of the data, with what Markdown or HTML would act on made harmless."""
    flat = " ".join(str(text).split())
    for mark, harmless in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("*", "\\*"), ("`", "\\`"), ("](", "]\\(")):
        flat = flat.replace(mark, harmless)
    return flat
