"""What lies in a run, for a reader: the HTML report, single plots of it, and what a tracker is handed."""

import logging
from collections.abc import Mapping
from pathlib import Path

from tasks.services.run.history import History
from tasks.services.run.paths import RunDir
from tasks.services.run.status import EVALUATIONS, EvaluationRecord, StageRecord, Status, read_status
from tasks.services.stages.runs import replaced_since
from tasks.services.tracking.protocols import ReportPayload
from ups_models.arrays import read_arrays
from ups_models.errors import BadInput
from ups_models.evaluation.registry import numbers_of
from ups_models.evaluation.result import EvaluationResult, read_result
from ups_models.files import write_text
from ups_models.report.figures import pictures
from ups_models.report.html import render_html
from ups_models.report.model import ReportInput, Timing
from ups_models.stages.lineage import read_lineage

logger = logging.getLogger(__name__)


def write_report(run: RunDir) -> Path:
    """Render reports/report.html from what lies in the run, and return its path.

    An evaluation of other weights than the status names is left out, with a warning. Raises BadInput when the run
    holds nothing to report.
    """
    write_text(run.report, render_html(report_of(run)))
    return run.report


def report_payload(run: RunDir) -> ReportPayload:
    """What was evaluated, for a tracker."""
    report = report_of(run)
    metrics = {result.name: numbers_of(result) for result in reversed(report.evaluations)}
    return ReportPayload(metrics, _images(report), run.report.read_text("utf-8"))


def report_of(run: RunDir) -> ReportInput:
    """What lies in the run, for a report. Raises BadInput when the run holds nothing to report."""
    status = read_status(run.status)
    results = {name: _current_result(name, run, status) for name in EVALUATIONS}
    history = History(run).of_these_weights(status)
    if not history and not any(results.values()):
        raise BadInput(f"{run.root}: holds no run to report; name its folder with --run-dir")
    newest = results["full_eval"] or results["small_eval"]
    return ReportInput(
        title=f"UPS pipeline: {run.root.resolve().name}",
        small=results["small_eval"],
        full=results["full_eval"],
        arrays=read_arrays(run.result(newest.name, ".npz")) if newest else {},
        history=history,
        config_yaml=newest.config_yaml if newest else "not evaluated: the config is stored with an evaluation",
        timings=[*_timings(status.stages), *_timings(status.evaluations)],
    )


def _images(report: ReportInput) -> dict[str, bytes]:
    main = report.full or report.small or EvaluationResult()
    drawn = pictures(main, report.arrays, report.history, "png")
    return {
        f"{section}{number or ''}": picture.image
        for section, found in drawn.items()
        for number, picture in enumerate(found)
    }


def _timings(records: Mapping[str, StageRecord] | Mapping[str, EvaluationRecord]) -> list[Timing]:
    return [
        Timing(name, record.status, record.seconds, record.step if isinstance(record, StageRecord) else None)
        for name, record in records.items()
    ]


def _current_result(name: str, run: RunDir, status: Status) -> EvaluationResult | None:
    path = run.result(name)
    if not path.exists():
        return None
    result = read_result(path)
    if (stage := replaced_since(result, status)) is not None:
        logger.warning("%s: is of other weights of %s than there are now; the report leaves it out", path, stage)
        return None
    bare = [name for name, item in result.checkpoints.items() if read_lineage(run.checkpoint(item.file)) is None]
    return result.model_copy(update={"unknown_descents": tuple(bare)})
