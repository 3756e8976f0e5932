"""The report: every figure said, nothing loaded from elsewhere, nothing hidden when a part is absent."""

from __future__ import annotations

import base64
import dataclasses
import re
import time
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from ups_models.errors import BadInput
from ups_models.report.figures import pictures
from ups_models.report.html import ReportInput, render_html, render_markdown
from ups_models.report.tables import DASH, Measure, compare, interval, number, seconds, verdict

STEPS, MEMBERS, POINTS = 40, 16, 256


def curve(start: float, end: float) -> dict[str, Any]:
    mean = np.geomspace(start, end, STEPS)
    return {
        "mean": mean.tolist(),
        "median": (0.7 * mean).tolist(),
        "ci95": np.stack([0.8 * mean, 1.3 * mean], 1).tolist(),
    }


def sampler(nfe: int, crps: float, spread: float, width: float) -> dict[str, Any]:
    ranks = np.arange(MEMBERS + 1) - MEMBERS / 2
    histogram = 1 + (1 / width - 1) * (ranks / (MEMBERS / 2)) ** 2
    return {
        "nfe": nfe, "crps": crps, "ncrps": 1.45 * crps, "spread_skill": spread, "spread_skill_normalised": 1.5 * spread,
        "coverage": {"50": 0.5 * width, "80": 0.82 * width, "90": min(0.93 * width, 1.0)},
        "rank_histogram": (histogram / histogram.sum()).tolist(), "ece": abs(1 - width) / 3,
        "ensemble_mean_nrmse": 0.00512, "sample_std": 0.000771 * spread,
    }  # fmt: skip


def field_metrics(scale: float) -> dict[str, float]:
    names = ("rmse", "nrmse", "crmse", "max_error", "brmse", "frmse_low", "frmse_mid", "frmse_high")
    return {name: scale * (i + 1) * 0.37 for i, name in enumerate(names)}


def evaluation(name: str = "full_eval", trajectories: int = 128) -> dict[str, Any]:
    by_horizon = {
        "operator": curve(0.0233, 0.0077), "persistence": curve(0.12, 2.1), "constant_mean": curve(0.97, 0.31),
        "zero": {"mean": [1.0] * STEPS, "median": [1.0] * STEPS, "ci95": [[1.0, 1.0]] * STEPS},
    }  # fmt: skip
    summary = {
        "operator": {"mean": 0.01714, "median": 0.01161, "ci95": [0.01421, 0.02062]},
        "persistence": {"mean": 1.573, "median": 1.004, "ci95": [1.21, 1.98]},
        "constant_mean": {"mean": 0.3696, "median": 0.307, "ci95": [0.33, 0.41]},
        "zero": {"mean": 1.0, "median": 1.0, "ci95": [1.0, 1.0]},
    }
    own = by_horizon["operator"]
    horizons = {str(h): {key: own[key][h - 1] for key in ("mean", "median", "ci95")} for h in (1, 5, 10, 20, 40)}
    return {
        "schema_version": 1, "name": name, "split": "test", "created_at": "2026-01-01T00:00:00Z",
        "trajectories": trajectories, "steps": STEPS, "members": MEMBERS, "seed": 0,
        "data": {"family": "burgers1d", "files": ["burgers_nu0.01.h5"], "nx": POINTS, "nt": 41, "dt": 0.05,
                 "parameter": [0.01]},
        "checkpoints": {"operator": {"file": "operator_ema.pt", "sha256": "3f" * 32},
                        "diffusion": {"file": "diffusion_residual_ema.pt", "sha256": "a1" * 32}},
        "one_step": {"operator": {"nrmse": 0.00843, "mae": 0.00146}, "persistence": {"nrmse": 0.1214, "mae": 0.0214},
                     "constant_mean": {"nrmse": 0.4253, "mae": 0.1931}, "zero": {"nrmse": 1.0, "mae": 0.3317}},
        "rollout": {
            "times": (0.05 * np.arange(1, STEPS + 1)).tolist(), "summary": summary, "by_horizon": by_horizon,
            "horizons": horizons,
            "pdebench": {"operator": field_metrics(0.01), "persistence": field_metrics(1.1),
                         "constant_mean": field_metrics(0.4), "zero": field_metrics(0.9)},
            "vrmse": {"operator": 0.0271, "persistence": 2.41, "constant_mean": 0.998, "zero": 2.66},
            "correlation_time": {"0.8": 2.0, "0.9": 2.0},
        },
        "probabilistic": {
            "operator": {"mae": 0.00146, "nmae": 0.00221}, "diffusion": sampler(15, 0.001302, 0.46, 0.8),
            "consistency_1": sampler(1, 0.001571, 0.14, 0.45), "consistency_2": sampler(2, 0.001434, 0.29, 0.63),
            "consistency_4": sampler(4, 0.001463, 0.30, 0.64), "gaussian": sampler(0, 0.001306, 0.67, 1.05),
        },
        "probabilistic_rollout": {"operator": {"mae": 0.00356}, "diffusion": {"crps": 0.00499, "spread_skill": 1.5},
                                  "consistency_2": {"crps": 0.00512, "spread_skill": 0.47},
                                  "gaussian": {"crps": 0.00291, "spread_skill": 1.64}},
        "darcy": {"steady_prior": {"member_nrmse": 0.1852, "ensemble_mean_nrmse": 0.178, "crps": 0.0188,
                                   "mae_of_mean": 0.0231, "spread_skill": 0.42,
                                   "coverage": {"50": 0.31, "80": 0.55, "90": 0.66}, "rank_histogram": [0.2] * 5},
                  "mean_field": {"nrmse": 0.558}, "inverse_coefficient": {"nrmse": 0.509}},
        "gates": [
            {"name": "rollout nRMSE", "value": 0.01714, "bound": 0.03, "goal": 0.015, "sense": "<=", "reached": True},
            {"name": "student std / teacher std", "value": 0.66, "bound": 0.5, "goal": 0.9, "sense": ">=",
             "reached": True},
        ],
    }  # fmt: skip


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x, t = (np.arange(POINTS) + 0.5) / POINTS, 0.05 * np.arange(41)
    phase, amplitude = rng.uniform(0, 6.28, (3, 4, 1, 1)), rng.uniform(0.2, 1, (3, 4, 1, 1))
    k = np.arange(1, 5)[None, :, None, None]
    waves = amplitude * np.exp(-0.05 * k**2 * t[:, None]) * np.sin(6.283 * k * (x - 0.3 * t[:, None]) + phase)
    truth = waves.sum(1)
    error = 0.01 * np.sin(25 * x + 3 * t[:, None]) * rng.normal(size=(3, 1, 1)) * (1 + t[:, None])
    wave_numbers = np.arange(POINTS // 2 + 1)
    power = np.exp(-0.12 * wave_numbers) + 1e-9
    y = np.linspace(0, 1, 32)
    bump = (np.sin(np.pi * y)[:, None] * np.sin(np.pi * y))[None] * rng.uniform(0.5, 1.5, (2, 1, 1))
    last = truth[0, -1]
    return {
        "x": x, "t": t, "truth": truth, "prediction": truth + error,
        "panel_names": np.array(["median trajectory", "worst trajectory", "nu=$0.01$ <b>"]),
        "spectrum_k": wave_numbers, "spectrum_truth": power, "spectrum_prediction": power * (1 - 0.004 * wave_numbers),
        "member_truth": last, "member_prediction": last + 0.004 * np.sin(30 * x),
        "member_samples": last + 0.004 * np.sin(30 * x) + 0.004 * rng.normal(size=(MEMBERS, 1)) * np.cos(18 * x)
        + 0.002 * rng.normal(size=(MEMBERS, 1)) * np.sin(31 * x),
        "darcy_a": np.where(np.sin(7 * y)[:, None] * np.cos(5 * y) > 0, 1.0, 0.1)[None].repeat(2, 0),
        "darcy_truth": bump, "darcy_samples": bump[:, None] * rng.uniform(0.8, 1.2, (2, 4, 1, 1)),
    }  # fmt: skip


def losses(start: float, end: float, floor: float = 0.0) -> list[dict[str, float]]:
    noise = np.random.default_rng(1).lognormal(0, 0.2, 1000)
    values = np.geomspace(start, end, 1000) * noise - floor
    return [{"step": float(i + 1), "loss": float(v)} for i, v in enumerate(values)]


@pytest.fixture
def report() -> ReportInput:
    """An input that is quick to render: tables, but nothing to draw."""
    full, small = evaluation(), evaluation("small_eval", 16)
    del full["rollout"]["by_horizon"], small["rollout"]["by_horizon"]
    for sampler_figures in (*full["probabilistic"].values(), *small["probabilistic"].values()):
        sampler_figures.pop("rank_histogram", None)
    return dataclasses.replace(example(), arrays={}, history={}, full=full, small=small)


@pytest.fixture(scope="module")
def html() -> str:
    return render_html(example())


def example() -> ReportInput:
    return ReportInput(
        title="quickstart, seed 0",
        small=evaluation("small_eval", 16),
        full=evaluation(),
        arrays=arrays(),
        history={
            "operator": losses(1.5, 0.02),
            "diff_residual": losses(6, 0.5, floor=1.5),
            "consistency_distill": losses(0.4, 0.03),
            "steady_prior": losses(1.0, 0.2),
        },
        config_yaml="latent:\n  dim: 32  # a < b & c\n",
        environment={"python": "3.11.7", "torch": "2.13.0+cpu", "device": "cpu, 2 threads"},
        timings=[
            {"stage": "operator", "status": "completed", "seconds": 93.4, "steps": 1000},
            {"stage": "diff_residual", "status": "completed", "seconds": 45.0, "steps": 1000},
        ],
    )


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

    assert len(page.loads) == 8
    assert all(load.startswith("data:image/svg+xml;base64,") for load in page.loads)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?://|url\(|@import", html)


def test_figures_load_nothing_either(html):
    for load in Page(html).loads:
        svg = base64.b64decode(load.partition(",")[2]).decode()

        assert svg.count("<svg ") == 1
        assert not re.search(r'href="(?!#|data:)|<script|@import|url\((?!#)', svg)
        assert "mathdefault" not in svg


def test_page_is_well_formed_and_small(html):
    assert html.startswith("<!DOCTYPE html>")
    assert Page(html).open == []
    assert len(html.encode()) < 3_000_000


def test_equal_input_gives_equal_bytes_within_seconds(html):
    start = time.process_time()

    again = render_html(example())

    assert again == html
    assert time.process_time() - start < 6


def test_every_headline_figure_is_said_with_its_rivals(html):
    words = Page(html).words

    for figure in ("0.00843", "0.121", "0.0171 [0.0142, 0.0206]", "1.57", "0.370", "0.0116", "0.0271"):
        assert figure in words
    for figure in ("0.00130", "0.00131", "0.00143", "0.00146", "0.00499", "0.00291", "0.185", "0.558", "0.509"):
        assert figure in words
    for rival in ("Persistence", "Constant mean", "Zero", "Gaussian, same scale", "Mean field"):
        assert rival in words


def test_page_says_what_its_figures_do_not_mean(html):
    words = " ".join(Page(html).words.split())

    for note in ("no meaning on a periodic domain", "must not be quoted as beaten", "another training seed",
                 "Correlation time saturates", "the last time: a lower bound"):  # fmt: skip
        assert note in words


def test_page_shows_where_the_figures_come_from(html):
    words = Page(html).words

    for origin in (
        "3f" * 32,
        "operator_ema.pt",
        "2.13.0+cpu",
        "dim: 32",
        "1 min 33 s",
        "93.4 ms",
        "2026-01-01T00:00:00Z",
    ):
        assert origin in words


def test_loss_that_is_not_finite_is_drawn_around(report):
    broken = [{"step": 1.0, "loss": 2.0}, {"step": 2.0, "loss": float("nan")}, {"step": 3.0, "loss": 1.0}]

    assert render_html(dataclasses.replace(report, history={"operator": broken, "steady_prior": broken[1:2]}))


def test_reached_gates_are_the_first_sentence(report):
    words = Page(render_html(report)).words

    assert words.index("2 of 2 gates reached.") < words.index("Headline figures")


def test_missed_gate_is_named_with_its_value_and_bound(report):
    report.full["gates"][0].update(value=0.0512, reached=False)

    html = render_html(report)

    assert 'class="verdict fail"' in html
    assert "1 of 2 gates not reached: rollout nRMSE is 0.0512, bound ≤ 0.0300." in Page(html).words


def test_text_of_the_data_cannot_act(report):
    attack = '<script>alert(1)</script><img src="http://evil/x.png">'
    full = evaluation(attack)
    full["gates"][0]["name"] = full["data"]["family"] = full["split"] = attack
    hostile = dataclasses.replace(
        report, title=attack, full=full, config_yaml=f"</pre>{attack}", environment={attack: attack}
    )

    html = render_html(hostile)

    page = Page(html)
    assert "script" not in page.tags
    assert all(load.startswith("data:") for load in page.loads)
    assert attack in page.words


@pytest.mark.parametrize(
    "part", ["one_step", "rollout", "probabilistic", "probabilistic_rollout", "darcy", "gates", "checkpoints", "data"]
)
def test_page_survives_each_missing_section(report, part):
    del report.full[part]

    assert "Notes on honesty" in render_html(report)
    assert "Notes on honesty" in render_markdown(report.full)


@pytest.mark.parametrize(
    ("part", "key"),
    [("rollout", "summary"), ("rollout", "horizons"), ("rollout", "times"),
     ("rollout", "pdebench"), ("rollout", "correlation_time"), ("probabilistic", "diffusion"),
     ("rollout", "vrmse"), ("probabilistic", "operator"), ("darcy", "mean_field"), ("darcy", "steady_prior")],
)  # fmt: skip
def test_page_survives_a_missing_part_of_a_section(report, part, key):
    del report.full[part][key]

    assert Page(render_html(report)).open == []


def test_each_missing_array_takes_only_its_own_figure_away():
    present = arrays()
    group = {"panels": ("x", "t", "truth", "prediction"), "members": ("x", "member_truth", "member_samples"),
             "spectrum": ("spectrum_k", "spectrum_truth", "spectrum_prediction"),
             "darcy": ("darcy_a", "darcy_truth", "darcy_samples")}  # fmt: skip

    for section, names in group.items():
        only = {name: present[name] for name in names}
        assert [key for key, drawn in pictures({}, only, {}).items() if drawn] == [section]
        for name in names:
            assert not any(pictures({}, {key: only[key] for key in names if key != name}, {}).values())


def test_tie_as_printed_is_a_tie():
    table = compare({"a": {"operator": 0.12340, "zero": 0.12341}}, "", [Measure("", "a/{model}")], ["operator", "zero"])

    assert table.best == {(0, 1), (0, 2)}


def test_missing_stage_is_said_with_its_reason(report):
    del report.full["darcy"]
    disabled = [*report.timings, {"stage": "steady_prior", "status": "disabled", "seconds": None, "steps": 0}]

    html = render_html(dataclasses.replace(report, timings=disabled))

    assert "Not evaluated: steady_prior is disabled." in Page(html).words


def test_stage_that_ran_is_not_called_disabled_when_its_figures_are_absent(report):
    del report.full["probabilistic"]

    words = Page(render_html(report)).words

    assert "diff_residual is completed, but this evaluation has no figures of it" in words


def test_small_evaluation_stands_alone_until_the_full_one_exists(report):
    words = Page(render_html(dataclasses.replace(report, full=None))).words

    assert "small_eval" in words
    assert "16 trajectories" in words
    assert "full_eval" not in words


def test_page_without_any_evaluation_says_so(report):
    nothing = ReportInput("empty", None, None, {}, {}, "", {}, [])

    assert "Not evaluated yet" in Page(render_html(nothing)).words


def test_evaluation_of_a_newer_schema_is_refused(report):
    report.full["schema_version"] = 2

    with pytest.raises(BadInput, match="full_eval: schema_version 2, but this version reads 1"):
        render_html(report)


# --- Markdown


def test_markdown_has_the_same_figures_as_the_page():
    text = render_markdown(evaluation())

    assert text.startswith("# full_eval\n\n**2 of 2 gates reached. Goals beyond them: 0 of 2.**")
    for figure in ("0.0171 [0.0142, 0.0206]", "**0.00843**", "0.00499", "**0.185**", "≤ 0.0300"):
        assert figure in text


def test_markdown_tables_have_as_many_cells_as_columns():
    blocks = re.findall(r"(?:^\|.*\|$\n)+", render_markdown(evaluation()), flags=re.MULTILINE)

    assert len(blocks) >= 8
    for block in blocks:
        assert len({re.sub(r"\\\|", "", line).count("|") for line in block.splitlines()}) == 1


def test_markdown_of_hostile_text_keeps_its_shape():
    result = evaluation("a|b <img src=x>\n# not a heading")

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


def test_best_of_a_row_is_nearest_to_its_ideal_and_ignores_what_is_not_finite():
    result = {"a": {"operator": 0.7, "diffusion": 1.2, "gaussian": float("nan")}}

    table = compare(result, "", [Measure("", "a/{model}", ideal=1.0)], ["operator", "diffusion", "gaussian", "zero"])

    assert table.columns == ("", "Operator", "Diffusion", "Gaussian, same scale")
    assert table.best == {(0, 2)}


def test_lone_figure_is_nobodys_best():
    assert compare({"a": {"zero": 1.0}}, "", [Measure("", "a/{model}")], ["operator", "zero"]).best == frozenset()


def test_evaluation_without_gates_judges_nothing():
    assert verdict({}).state == "unknown"
