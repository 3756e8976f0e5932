"""The report: every metric said, nothing loaded from elsewhere, nothing hidden when a part is absent."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from ups_models.evaluation.parts import SAMPLERS
from ups_models.evaluation.result import Check, EvaluationResult
from ups_models.report.figures import pictures
from ups_models.report.film import film
from ups_models.report.html import render_html
from ups_models.report.markdown import render_markdown
from ups_models.report.model import ReportInput, Timing
from ups_models.report.tables import Row, compare
from ups_models.report.words import DASH, interval, number, seconds, verdict

CHECKS = (
    Check(name="rollout nRMSE", value=0.01714, bound=0.03, stretch_goal=0.015),
    Check(name="student std / teacher std", value=0.66, bound=0.5, stretch_goal=0.9, sense=">="),
)
TIMINGS = [Timing("operator", "completed", 93.4, 1000), Timing("diff_residual", "completed", 45.0, 1000)]


@pytest.fixture
def report(smoke_report) -> ReportInput:
    """An input that is quick to render: tables, but nothing to draw."""
    full, small = (undrawn(result).model_copy(update={"checks": CHECKS}) for result in smoke_report.evaluations)
    return dataclasses.replace(smoke_report, arrays={}, history={}, timings=TIMINGS, full=full, small=small)


@pytest.fixture(scope="session")
def html(finished_run) -> str:
    return (finished_run / "reports" / "report.html").read_text("utf-8")


def undrawn(result: EvaluationResult) -> EvaluationResult:
    content = result.model_dump()
    content["rollout"]["by_horizon"] = {}
    samplers = [content["probabilistic"].get(model, {}) for model in SAMPLERS]
    for scores in (*samplers, content["darcy"]["steady_prior"]):
        scores.pop("rank_histogram", None)
        scores.pop("coverage", None)
    return EvaluationResult.model_validate(content)


def without(report: ReportInput, part: str, key: str | None = None) -> ReportInput:
    """The report of an evaluation that lacks a part, or something in it."""
    assert report.full is not None
    content = report.full.model_dump()
    del (content[part] if key else content)[key or part]
    return dataclasses.replace(report, full=EvaluationResult.model_validate(content))


def words_of(report: ReportInput) -> str:
    return " ".join(Page(render_html(report)).words.split())


class Page(HTMLParser):
    """The tags and attributes of a page, its words, and the tags left open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


# --- the page


def test_page_loads_nothing_from_anywhere(html):
    page = Page(html)

    assert len(page.loads) == 10
    assert all(load.startswith(("data:image/svg+xml;base64,", "data:image/gif;base64,")) for load in page.loads)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?://|url\(|@import", html)


def test_figures_load_nothing_either(html):
    for load in [load for load in Page(html).loads if load.startswith("data:image/svg")]:
        svg = base64.b64decode(load.partition(",")[2]).decode()

        assert svg.count("<svg ") == 1
        assert not re.search(r'href="(?!#|data:)|<script|@import|url\((?!#)', svg)
        assert "mathdefault" not in svg


@pytest.mark.parametrize("space", [(48,), (16, 24)], ids=["line", "map"])
def test_a_rollout_moves_from_its_first_to_its_last_time(space):
    times = np.linspace(0.1, 1.0, 7)
    truth = np.sin(times[:, None] + np.linspace(0, 6, math.prod(space))).reshape(-1, *space)
    fields = {"mean": truth + 0.1, "member": truth - 0.1, "spread": 0.2 + 0 * truth}
    arrays = {"film_t": times, "film_truth": truth, **{f"film_{name}": field for name, field in fields.items()}}

    picture = film(arrays)

    assert picture is not None
    assert picture == film(arrays)
    assert len(list(ImageSequence.Iterator(Image.open(io.BytesIO(picture.image))))) == len(times)
    assert "t = 1" in picture.caption


def test_without_a_stored_rollout_there_is_no_film():
    assert film({}) is None


def test_calibration_is_reported_after_each_number_of_steps(html, smoke_result):
    diffusion = smoke_result.probabilistic_rollout.samplers["diffusion"]

    assert list(diffusion.horizons) == ["1", "4", "10"]
    assert all(sum(at.rank_histogram) == pytest.approx(1) for at in diffusion.horizons.values())
    words = " ".join(Page(html).words.split())
    assert "Rollout, by horizon" in words
    assert number(diffusion.horizons["4"].scores["spread_skill"]) in words


def test_page_is_well_formed_and_small(html):
    assert html.startswith("<!DOCTYPE html>")
    assert Page(html).open == []
    assert len(html.encode()) < 3_000_000


def test_equal_input_gives_equal_bytes(html, smoke_report):
    assert render_html(smoke_report) == html


def test_it_says_where_the_numbers_were_computed_and_not_where_it_was_rendered(report, smoke_result):
    assert smoke_result.environment["torch"] == torch.__version__
    full = report.full.model_copy(update={"environment": {"gpu": "an H200 elsewhere"}})

    words = words_of(dataclasses.replace(report, full=full))

    assert "an H200 elsewhere" in words
    assert torch.__version__ not in words


def test_an_evaluation_that_does_not_say_where_it_ran_is_shown_without(report):
    older = report.full.model_copy(update={"environment": {}})

    assert "Environment" not in words_of(dataclasses.replace(report, full=older, small=None))


def test_every_metric_is_said_with_its_rivals(html, smoke_result):
    words = Page(html).words
    one_step, rollout, darcy = smoke_result.one_step, smoke_result.rollout, smoke_result.darcy
    ensembles, rollouts = smoke_result.probabilistic, smoke_result.probabilistic_rollout
    prior = darcy.steady_prior.scores
    mean = rollout.summary["operator"]

    assert f"{number(mean.mean)} {interval(mean.ci95)}" in words
    for model in ("operator", "persistence", "constant_mean", "zero"):
        assert number(one_step[model]["nrmse"]) in words
        assert number(one_step[model]["mae"]) in words
        assert number(rollout.summary[model].mean) in words
        assert number(rollout.summary[model].median) in words
        assert number(rollout.vrmse[model]) in words
    for sampler in ("diffusion", "consistency_1", "consistency_2", "consistency_4", "gaussian"):
        for key in ("crps", "ncrps", "spread_skill"):
            assert number(ensembles.samplers[sampler].scores[key]) in words
            assert number(rollouts.samplers[sampler].scores[key]) in words
    for value in (
        ensembles.operator["mae"],
        ensembles.operator["nmae"],
        rollouts.operator["mae"],
        *prior.values(),
        *ensembles.samplers["consistency_4"].scores.values(),
        *rollouts.samplers["diffusion"].scores.values(),
        darcy.guesses["mean_field"]["nrmse"],
        darcy.guesses["inverse_coefficient"]["nrmse"],
    ):
        assert number(value) in words
    for rival in ("Persistence", "Constant mean", "Zero", "Gaussian, same scale", "Mean field"):
        assert rival in words


def test_page_says_what_its_metrics_do_not_mean(report):
    words = words_of(report)

    for caveat in ("no meaning on a periodic domain", "must not be quoted as beaten", "another training seed",
                   "Correlation time saturates"):  # fmt: skip
        assert caveat in words


def test_correlation_time_that_saturates_is_called_a_lower_bound(report):
    rollout = report.full.rollout
    saturated = rollout.model_copy(update={"correlation_time": {"0.8": rollout.times[-1], "0.9": rollout.times[0]}})

    page = dataclasses.replace(report, full=report.full.model_copy(update={"rollout": saturated}))

    assert words_of(page).count("the last time: a lower bound") == 1


def test_page_shows_where_its_metrics_come_from(report):
    words = words_of(report)

    for origin in (
        report.full.checkpoints["operator"].sha256,
        "operator_ema.pt",
        torch.__version__,
        "dim: 4",
        "1 min 33 s",
        "93.4 ms",
        report.full.created_at,
    ):
        assert origin in words


def test_loss_that_is_not_finite_is_drawn_around(report):
    broken = [{"step": 1.0, "loss": 2.0}, {"step": 2.0, "loss": float("nan")}, {"step": 3.0, "loss": 1.0}]

    assert render_html(dataclasses.replace(report, history={"operator": broken, "steady_prior": broken[1:2]}))


def test_reached_checks_are_the_first_sentence(report):
    words = words_of(report)

    assert words.index("2 of 2 checks reached.") < words.index("Headline metrics")


def test_missed_check_is_named_with_its_value_and_bound(report):
    missed = CHECKS[0].model_copy(update={"value": 0.0512})
    full = report.full.model_copy(update={"checks": (missed, CHECKS[1])})

    html = render_html(dataclasses.replace(report, full=full))

    assert 'class="verdict fail"' in html
    assert "1 of 2 checks not reached: rollout nRMSE is 0.0512, bound ≤ 0.0300." in Page(html).words


def test_text_of_the_data_cannot_act(report):
    attack = '<script>alert(1)</script><img src="http://evil/x.png">'
    full = report.full.model_copy(
        update={
            "name": attack,
            "split": attack,
            "data": report.full.data.model_copy(update={"family": attack}),
            "environment": {attack: attack},
            "checks": (CHECKS[0].model_copy(update={"name": attack}), CHECKS[1]),
        }
    )
    hostile = dataclasses.replace(report, title=attack, full=full, config_yaml=f"</pre>{attack}")

    html = render_html(hostile)

    page = Page(html)
    assert "script" not in page.tags
    assert all(load.startswith("data:") for load in page.loads)
    assert attack in page.words


@pytest.mark.parametrize(
    "part", ["one_step", "rollout", "probabilistic", "probabilistic_rollout", "darcy", "checks", "checkpoints", "data"]
)
def test_page_survives_each_missing_section(report, part):
    bare = without(report, part)

    assert bare.full is not None
    assert "Caveats" in render_html(bare)
    assert "Caveats" in render_markdown(bare.full)


@pytest.mark.parametrize(
    ("part", "key"),
    [("rollout", "summary"), ("rollout", "horizons"), ("rollout", "times"),
     ("rollout", "pdebench"), ("rollout", "correlation_time"), ("probabilistic", "diffusion"),
     ("rollout", "vrmse"), ("probabilistic", "operator"), ("darcy", "mean_field"), ("darcy", "steady_prior")],
)  # fmt: skip
def test_page_survives_a_missing_part_of_a_section(report, part, key):
    assert Page(render_html(without(report, part, key))).open == []


def test_each_missing_array_takes_only_its_own_figure_away(smoke_report):
    present = smoke_report.arrays
    group = {"panels": ("x", "t", "truth", "prediction"), "members": ("x", "member_truth", "member_samples"),
             "spectrum": ("spectrum_k", "spectrum_truth", "spectrum_prediction"),
             "darcy": ("darcy_a", "darcy_truth", "darcy_samples")}  # fmt: skip
    nothing = EvaluationResult()

    for section, names in group.items():
        only = {name: present[name] for name in names}
        assert [key for key, drawn in pictures(nothing, only, {}).items() if drawn] == [section]
        for name in names:
            assert not any(pictures(nothing, {key: only[key] for key in names if key != name}, {}).values())


def test_names_of_panels_are_no_formulas(smoke_report):
    names = smoke_report.arrays["panel_names"].copy()
    names[-1] = "nu=$0.01$ <b>"

    (panels,) = pictures(EvaluationResult(), {**smoke_report.arrays, "panel_names": names}, {})["panels"]

    assert b"mathdefault" not in panels.image


def test_missing_stage_is_said_with_its_reason(report):
    bare = without(report, "darcy")

    words = words_of(dataclasses.replace(bare, timings=[*report.timings, Timing("steady_prior", "disabled", None, 0)]))

    assert "Not evaluated: steady_prior is disabled." in words


def test_stage_that_ran_is_not_called_disabled_when_its_metrics_are_absent(report):
    words = words_of(without(report, "probabilistic"))

    assert "diff_residual is completed, but this evaluation has no metrics of it" in words


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_student_of_any_number_of_steps_is_not_called_missing(report, steps):
    content = report.full.model_dump()
    ensembles = content["probabilistic"]
    students = [ensembles.pop(f"consistency_{count}") for count in (1, 2, 4)]
    ensembles[f"consistency_{steps}"] = students[0]

    text = render_markdown(EvaluationResult.model_validate(content))

    assert f"| Consistency, {steps} step" in text
    assert "Not evaluated: consistency_distill" not in text


def test_missing_student_is_said(report):
    content = report.full.model_dump()
    for count in (1, 2, 4):
        del content["probabilistic"][f"consistency_{count}"]

    assert "Not evaluated: consistency_distill" in render_markdown(EvaluationResult.model_validate(content))


def test_ensemble_rollouts_that_nobody_asked_for_are_no_missing_stage(report):
    text = render_markdown(report.small)

    assert "this evaluation asked for none" in text
    assert "diff_residual is" not in text


def test_small_evaluation_stands_alone_until_the_full_one_exists(report):
    words = words_of(dataclasses.replace(report, full=None))

    assert "small_eval" in words
    assert "4 trajectories" in words
    assert words.count("full_eval") == 1, "the config's own section, and nothing else"


def test_page_without_any_evaluation_says_so():
    nothing = ReportInput("empty", None, None, {}, {}, "", [])

    assert "Not evaluated yet" in Page(render_html(nothing)).words


# --- Markdown


def test_markdown_has_the_same_metrics_as_the_page(report):
    text = render_markdown(report.full)

    assert text.startswith("# full_eval\n\n**2 of 2 checks reached. Stretch goals: 0 of 2 reached.**")
    mean = report.full.rollout.summary["operator"]
    cells = set(re.findall(r"<t[dh][^>]*>(?:<strong>)?([^<]+)", render_html(report)))
    for cell in (
        f"{number(mean.mean)} {interval(mean.ci95)}",
        "≤ 0.0300",
        "≥ 0.900",
        "Rollout spread / skill (ideal 1)",
    ):
        assert cell in text
        assert cell in cells
    assert f"**{number(min(scores['nrmse'] for scores in report.full.one_step.values()))}**" in text


def test_markdown_tables_have_as_many_cells_as_columns(smoke_result):
    blocks = re.findall(r"(?:^\|.*\|$\n)+", render_markdown(smoke_result), flags=re.MULTILINE)

    assert len(blocks) >= 8
    for block in blocks:
        assert len({re.sub(r"\\\|", "", line).count("|") for line in block.splitlines()}) == 1


def test_markdown_of_hostile_text_keeps_its_shape(smoke_result):
    result = smoke_result.model_copy(update={"name": "a|b <img src=x>\n# not a heading"})

    first = render_markdown(result).splitlines()[0]

    assert first == "# a\\|b &lt;img src=x> # not a heading"


# --- words


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, DASH), (0.0, "0.00"), (0.017136, "0.0171"), (1.0, "1.00"), (123.4, "123"), (1234.5, "1234"),
     (3.2e-7, "3.20e-07"), (15, "15"), (float("nan"), "not finite (nan)"), (float("inf"), "not finite (inf)")],
)  # fmt: skip
def test_numbers_have_three_digits_and_failures_are_words(value, text):
    assert number(value) == text


@pytest.mark.parametrize(("value", "text"), [(4.2, "4.2 s"), (93.4, "1 min 33 s"), (7260.0, "2 h 1 min")])
def test_durations_are_read_at_a_glance(value, text):
    assert seconds(value) == text


def test_absent_interval_is_a_dash():
    assert interval(None) == DASH


def test_value_stands_beside_its_interval():
    row = Row("", {"operator": 0.01714, "zero": 1.0}, intervals={"operator": (0.01421, 0.02062)})

    assert [row.text(model) for model in ("operator", "zero", "gaussian")] == ["0.0171 [0.0142, 0.0206]", "1.00", DASH]


def test_best_of_a_row_is_nearest_to_its_ideal_and_ignores_what_is_not_finite():
    row = Row("", {"operator": 0.7, "diffusion": 1.2, "gaussian": float("nan")}, ideal=1.0)

    table = compare("", [row], ["operator", "diffusion", "gaussian", "zero"])

    assert table.columns == ("", "Operator", "Diffusion", "Gaussian, same scale")
    assert table.best == {(0, 2)}


def test_best_without_an_ideal_value_is_the_largest():
    row = Row("", {"operator": 0.7, "zero": 1.2}, ideal=float("inf"))

    assert compare("", [row], ["operator", "zero"]).best == {(0, 2)}


def test_lone_value_is_nobodys_best():
    assert compare("", [Row("", {"zero": 1.0})], ["operator", "zero"]).best == frozenset()


def test_tie_as_printed_is_a_tie():
    table = compare("", [Row("", {"operator": 0.12340, "zero": 0.12341})], ["operator", "zero"])

    assert table.best == {(0, 1), (0, 2)}


def test_evaluation_without_checks_judges_nothing():
    assert verdict(EvaluationResult()).state == "unknown"
