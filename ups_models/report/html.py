"""The report as one self-contained HTML page."""

from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from ups_models.evaluation.result import EvaluationResult
from ups_models.report.figures import pictures
from ups_models.report.model import ReportInput, Section, Table
from ups_models.report.sections import Status, sections
from ups_models.report.tables import check_table, checkpoint_table, timing_table
from ups_models.report.words import CAVEATS, describe, verdict

WITHOUT_TABLES: Mapping[str, tuple[str, str]] = {
    "panels": ("Space and time", "no trajectories were stored"),
    "spectrum": ("Spectra", "no spectra were stored"),
    "members": ("One ensemble", "no ensemble was stored; diff_residual may be disabled"),
    "motion": ("A rollout in motion", "no ensemble rollout was stored; this evaluation made none"),
}
ORDER = ("panels", "motion", "horizon", "field", "spectrum", "ensemble", "members", "darcy", "speed")


def render_html(report: ReportInput) -> str:
    """One page without external resources; equal input gives equal bytes."""
    main = report.evaluations[0] if report.evaluations else EvaluationResult()
    status = {timing.stage: timing.status for timing in report.timings}
    by_key = {section.key: section for section in sections(main, status)}
    drawn = pictures(main, report.arrays, report.history)
    return _template("report.html.j2").render(
        report=report,
        facts=describe(main),
        verdicts=[(result.name, verdict(result)) for result in report.evaluations],
        checks=check_table(main),
        headline=by_key["headline"],
        body=[by_key.get(key) or _drawn_only(key, bool(drawn[key])) for key in ORDER],
        pictures=drawn,
        timing=timing_table(report.timings),
        checkpoints=checkpoint_table(main),
        caveats=CAVEATS,
        second=_second(report.evaluations[1], status) if len(report.evaluations) > 1 else None,
    )


def render_tables(title: str, tables: Sequence[Table]) -> str:
    """Tables alone as one page, in the report's style."""
    return _template("tables.html.j2").render(title=title, tables=tables)


def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("ups_models.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _second(result: EvaluationResult, status: Status) -> tuple[str, tuple[Table, ...]]:
    """The evaluation that is not shown in full: its name and its short tables."""
    headline = next(section for section in sections(result, status) if section.key == "headline")
    checks = check_table(result)
    facts = ", ".join(describe(result)[:3])
    return f"{result.name} ({facts})", (*((checks,) if checks.rows else ()), *headline.tables)


def _drawn_only(key: str, drawn: bool) -> Section:
    title, reason = WITHOUT_TABLES[key]
    return Section(key, title, missing=() if drawn else (f"Not drawn: {reason}.",))
