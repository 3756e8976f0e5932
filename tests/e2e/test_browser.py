"""Prefect's UI as the control room: what a person reads there, in a real browser, of runs on a real server."""

import os
import re
import signal
from pathlib import Path

import pytest
from e2e.browser import browser

from flows.prefect.artifacts import key_ending
from flows.requests.attempts import number_in
from flows.requests.train import TrainRequest
from harness.chaos.prefect_stack import prefect_stack, trainer_of
from ups_models.stages.spec import SPECS

pytestmark = pytest.mark.slow

WORK = [*SPECS, "small_eval", "full_eval"]
TASKS = [*WORK, "report"]
STATES = ("Completed", "Crashed", "Failed", "Running", "Pending", "Cancelled", "GaveUp", "Duplicate")
A_RUN_S = 400.0
A_BAR = 1000  # pixels
SLOWED = ["stages.diff_residual.steps_per_epoch=100", "checkpoint.save_every_steps=10"]


@pytest.fixture(scope="module")
def ui(tmp_path_factory):
    """A browser before an empty page."""
    pictures = Path(os.environ.get("UPS_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    pictures.mkdir(parents=True, exist_ok=True)
    with browser(tmp_path_factory.mktemp("profile"), pictures) as window:
        yield window


@pytest.fixture(scope="module")
def room(ui, tmp_path_factory):
    """A server with everything deployed, and a worker; the browser comes first, for without one there is no test."""
    with prefect_stack(tmp_path_factory.mktemp("room")) as room:
        ui.root = room.ui
        done = room.deploy("--retry-after", "1")
        assert done.returncode == 0, done.stderr
        room.start_worker()
        room.start_watch()
        yield room


@pytest.fixture(scope="module")
def form(room):
    """The path of the form that starts a run."""
    return f"/deployments/deployment/{room.deployment()['id']}/run"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The run directory that the form is given."""
    return tmp_path_factory.mktemp("runs") / "smoke"


@pytest.fixture(scope="module")
def finished(ui, form, root):
    """The path of the page of a run that a person started from the form, and that is done."""
    fill(ui, form)
    ui.field("Config (Optional)").choose("configs/smoke.yaml")
    ui.field("Run Dir (Optional)").fill(str(root))
    ui.press("Submit")
    ui.until(lambda: not ui.driver.current_url.endswith("/run") or again_where_busy(ui), "a run that is scheduled")
    ui.until(lambda: ui.followed("/runs/flow-run/"), "the page of the run")
    path = ui.driver.current_url.removeprefix(ui.root)
    ui.until(lambda: "Completed" in ui.heading(), "a run that is done", A_RUN_S)
    return path


@pytest.fixture(scope="module")
def crashed(ui, room, tmp_path_factory):
    """The path of the page of a run that was killed, and that another attempt has completed."""
    root = tmp_path_factory.mktemp("killed")
    request = {"config": "configs/smoke.yaml", "auto_resume": True, "run_dir": str(root), "set": SLOWED}
    first = room.run(request)
    room.wait_for((root / "checkpoints" / "resume" / "diff_residual.pt").exists, "a state to go on from")
    os.kill(trainer_of(root), signal.SIGKILL)
    room.wait_for(lambda: ("Completed", 2) in room.states(root), "a second attempt")
    return f"/runs/flow-run/{first}"


def again_where_busy(ui):
    """A server whose SQLite is busy answers 503, and the page says so; a person submits again."""
    if "Something went wrong" in ui.text():
        ui.press("Submit")


def fill(ui, form):
    """Open the form, all of it, and wait for its defaults."""
    ui.open(form, height=2900)
    ui.until(lambda: ui.field("Config (Optional)").value(), "defaults")


def see_tasks(ui, run, tasks):
    """Wait until the run's page tells exactly these names and states of its tasks."""
    ui.open(run)

    def notify_automation():
        return ui.turned("Task Runs") and {card[0]: card[1] for card in ui.rows() if card[1:]} == tasks

    ui.until(notify_automation, f"the tasks {tasks}")


def see_attempts(ui, page, *wanted):
    """(attempt, state) of each flow run that a page lists, once the wanted are among them."""
    ui.open(page)

    def notify_automation():
        found = [chain_run_of(card) for card in ui.rows()]
        return found if set(wanted) <= set(found) else []

    return ui.until(notify_automation, f"the attempts {wanted}")


def chain_run_of(card):
    """What a card says of its run, as far as it is there."""
    numbers = [int(found[1]) for line in card if (found := re.search(r" · attempt (\d+) · ", line))]
    return next(iter(numbers), 0), next((line for line in card if line in STATES), "")


def test_the_form_shows_every_field_with_its_meaning_and_its_default(ui, form):
    fill(ui, form)
    ui.picture("form")

    described = TrainRequest.model_json_schema()["properties"]
    for name, field in described.items():
        shown = ui.field(f"{name.replace('_', ' ').title()} (Optional)").text()
        assert field["description"] in shown, shown
    assert ui.field("Config (Optional)").value() == "configs/quickstart.yaml"
    assert ui.field("Config (Optional)").choices() == described["config"]["anyOf"][0]["enum"]
    assert ui.field("Run Dir (Optional)").value() == "."
    assert ui.field("Stage (Optional)").value() == "all"
    assert ui.field("Stage (Optional)").choices() == ["all", *SPECS]
    assert ui.field("Mode (Optional)").value() == "resume"
    assert ui.field("Mode (Optional)").choices() == described["mode"]["enum"]
    assert ui.field("Attempt (Optional)").value() == "1"
    assert "Counts the runs of a chain" in ui.field("Attempt (Optional)").text()


def test_the_form_refuses_a_value_that_makes_no_sense_and_says_why(ui, form, room):
    fill(ui, form)
    before = len(room.runs())

    ui.field("Attempt (Optional)").fill("1.5")
    ui.press("Submit")

    ui.until(lambda: "1.5 is not of type 'integer'" in ui.field("Attempt (Optional)").text(), "what is wrong")
    ui.picture("form-refused")
    assert len(room.runs()) == before


def test_the_page_of_a_run_shows_its_name_its_state_and_its_stages(ui, finished):
    see_tasks(ui, finished, dict.fromkeys(TASKS, "Completed"))
    ui.picture("run-tasks")

    ui.until(lambda: f"{len(TASKS)} Task runs" in ui.heading(), "the number of tasks")
    assert "smoke in smoke · attempt 1" in ui.heading()


def test_the_timeline_of_a_run_has_bars_in_the_colour_of_what_is_completed(ui, finished):
    ui.open(finished)

    # Bars and names are drawn, so there is no text to read.
    ui.until(lambda: ui.turned("Task Runs") and green(ui.pixels("canvas")) > A_BAR, "green bars")
    ui.picture("control-room-run")


def green(pixels):
    """How many pixels are as green as a bar of the timeline."""
    red, bright, blue = pixels.T
    return int(((bright > 130) & (bright > 2 * red) & (bright > 1.5 * blue)).sum())


def open_artifact(ui, key):
    """The newest artifact of this name, by way of the list of all that had it."""
    ui.open(f"/artifacts/key/{key}")
    ui.until(lambda: ui.followed("/artifacts/artifact/") and "Show raw data" in ui.text(), f"an artifact {key}")


def test_the_table_of_stages_names_each_stage_its_status_and_its_checkpoint(ui, finished, root):
    open_artifact(ui, f"stage-status-{key_ending(root)}")
    ui.picture("stage-status")

    head, *rows = ui.table()
    stages = {row["stage"]: row for row in (dict(zip(head, cells, strict=True)) for cells in rows)}
    assert str(root) in ui.text()
    assert list(stages) == WORK
    assert {row["status"] for row in stages.values()} == {"completed"}
    for stage, spec in SPECS.items():
        assert stages[stage]["checkpoint"] == spec.checkpoint


def test_the_report_shows_the_results_of_the_evaluation(ui, finished, root):
    open_artifact(ui, f"pipeline-report-{key_ending(root)}")
    ui.until(ui.images, "a drawing")
    ui.picture("pipeline-report")

    assert str(root / "reports" / "report.html") in ui.text()
    assert re.search(r"^One-step nRMSE( \d+\.\d+)+$", ui.text(), re.MULTILINE), ui.text()
    assert re.search(r"^rollout nRMSE, mean \d+\.\d+ ≤ ", ui.text(), re.MULTILINE), ui.text()
    for spec in SPECS.values():
        assert spec.checkpoint in ui.text()


def test_a_second_run_of_a_directory_says_what_it_skipped_and_why(ui, room, root, finished):
    again = f"/runs/flow-run/{room.run({'config': 'configs/smoke.yaml', 'auto_resume': True, 'run_dir': str(root)})}"
    ui.open(again)
    ui.until(lambda: "Completed" in ui.heading(), "a run that is done", A_RUN_S)

    see_tasks(ui, again, dict.fromkeys(WORK, "Skipped"))
    ui.picture("run-skipped")
    ui.until(lambda: ui.turned("Logs") and "Skipped('full_eval: " in ui.text(), "the reasons")
    ui.picture("run-skipped-logs")

    for stage in SPECS:
        assert re.search(rf"Skipped\('{stage}: completed at .*, files unchanged'", ui.text()), ui.text()


@pytest.mark.thorough
def test_the_attempts_of_a_chain_are_told_apart_by_name_and_state(ui, form, crashed):
    ui.open(crashed)
    ui.until(lambda: ui.turned("Details") and "SIGKILL" in ui.text(), "the reason of the crash")
    ui.picture("chain-first")
    tag = next(line for line in ui.heading().split("\n") if line.startswith("chain:"))

    chain = see_attempts(ui, f"/runs?tag={tag}", (1, "Crashed"), (2, "Completed"))
    ui.picture("chain")
    see_attempts(ui, form.removesuffix("/run"), (1, "Crashed"), (2, "Completed"))
    ui.picture("control-room-chain")

    assert [state for attempt, state in chain if attempt == 1] == ["Crashed"]


@pytest.mark.thorough
def test_an_attempt_tells_the_stages_it_trained_from_those_that_it_found(ui, room, crashed):
    later = [run for run in room.runs() if number_in(run["parameters"]) == 2 and run["start_time"]]
    second = min(later, key=lambda run: run["start_time"])

    see_tasks(
        ui,
        f"/runs/flow-run/{second['id']}",
        {**dict.fromkeys(TASKS, "Completed"), "operator": "Skipped", "diff_residual": "Resumed"},
    )
    ui.picture("chain-second")
