"""The recipes of CONTRIBUTING.md, followed: each is done here as it is written there."""

import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import get_args

import pytest
import torch
from pydantic import Field
from torch import nn

import flows.cli.commands
from flows import ROOT
from flows.cli.main import COMMANDS, Command
from flows.dag import run_job
from flows.requests.job import parse
from flows.requests.train import StageChoice, TrainRequest
from tasks.services.rental.providers.registry import provider_for
from tasks.services.run.paths import RunDir
from tasks.services.stages import snapshot
from tasks.services.stages.deciding import decide
from tasks.services.stages.job import Job, Policy
from ups_models.config.constants import CONSTANTS
from ups_models.config.loading import load_config
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.config.section import Number, Section
from ups_models.config.stages import OperatorStageConfig, StageConfig, StagesConfig
from ups_models.data.batches import window_batch
from ups_models.data.fields import Fields
from ups_models.errors import ConfigError
from ups_models.evaluation import registry
from ups_models.evaluation.inputs import NETWORKS, Models
from ups_models.evaluation.parts import ENSEMBLES
from ups_models.evaluation.registry import METRICS, Metric
from ups_models.evaluation.result import read_result
from ups_models.evaluation.samples import Ensemble
from ups_models.problems.initial import smooth_fields
from ups_models.problems.problem import Axis, Parameter, Problem, Sampling, Solver, mirrored
from ups_models.problems.registry import EVOLVING, PROBLEMS
from ups_models.stages.fingerprint import VERSION
from ups_models.stages.registry import STAGES
from ups_models.stages.spec import SPECS, StageSpec
from ups_models.stages.stage import Stage, expect

SMOKE = ROOT / "configs" / "smoke.yaml"
PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
RECIPES = {
    part.partition("\n")[0]: part
    for part in re.split(r"^### ", PAGE.partition("\n## Recipes\n")[2].partition("\n## ")[0], flags=re.MULTILINE)[1:]
}
NAMES = {
    "Add a stage": {
        "ups_models/stages/spec.py": ["SPECS", "needs", "optional"],
        "ups_models/config/stages.py": ["StageConfig", "StagesConfig"],
        "ups_models/config/constants.py": ["CONSTANTS"],
        "ups_models/stages/stage.py": ["LossInput"],
        "ups_models/stages/operator.py": ["build", "build_loss", "sample_batch", "STAGE"],
        "ups_models/stages/registry.py": ["STAGES"],
        "flows/requests/train.py": ["StageChoice"],
        "ups_models/evaluation/inputs.py": ["NETWORKS", "Models"],
        "flows/cli/commands/evaluate.py": ["STAGES"],
        "tests/unit/ups_models/test_train.py": [],
        "tests/unit/ups_models/test_losses.py": [],
        "pyproject.toml": ["ups_models.stages"],
    },
    "Add a config field": {
        "ups_models/config/schema.py": ["Field"],
        "ups_models/stages/spec.py": ["SPECS"],
        "ups_models/stages/fingerprint.py": ["VERSION", "APART"],
        "ups_models/config/constants.py": ["CONSTANTS"],
        "tests/unit/ups_models/test_config.py": [],
        "flows/requests/train.py": ["TrainRequest"],
        "tests/data/defaults_v2.json": [],
    },
    "Add a metric": {
        "ups_models/evaluation/metrics.py": [],
        "ups_models/evaluation/registry.py": ["Metric", "METRICS", "headline", "interval", "ideal"],
        "ups_models/evaluation/samples.py": ["Forecast", "Ensemble"],
        "ups_models/evaluation/parts.py": ["Part"],
        "ups_models/evaluation/checks.py": ["CHECKS"],
        "tests/unit/ups_models/test_metrics.py": [],
        "docs/methods.md": [],
    },
    "Add an equation": {
        "ups_models/problems/problem.py": ["Problem", "Solver"],
        "ups_models/problems/registry.py": ["Problem", "PROBLEMS"],
        "ups_models/problems/spectral.py": [],
        "ups_models/problems/initial.py": [],
        "ups_models/problems/solving.py": [],
        "pyproject.toml": ["ups_models.problems"],
        "tests/unit/ups_models/test_equations.py": ["IN_TIME"],
        "docs/data.md": [],
    },
    "Add a machine provider": {
        "tasks/services/rental/provider.py": ["Provider", "supports_bids", "UnknownOutcome", "NoOffer"],
        "tasks/services/rental/providers/registry.py": ["ups.providers", "OURS"],
        "docs/vast.md": ["ups.providers"],
        "pyproject.toml": ["tasks.services.rental.providers"],
    },
    "Add a metric logger": {
        "tasks/services/tracking/protocols.py": ["MetricLogger"],
        "tasks/services/tracking/tracker.py": ["ups.loggers"],
        "flows/dag.py": ["run_job", "loggers"],
        "docs/wandb.md": ["ups.loggers"],
    },
    "Add a command": {
        "flows/cli/main.py": ["COMMANDS", "Command"],
        "flows/cli/commands/report.py": ["add", "run"],
        "flows/cli/arguments.py": ["add_path"],
        "flows/cli/views/console.py": ["echo"],
        "tests/unit/flows/test_cli.py": [],
        "README.md": [],
    },
}
"""By recipe: the files that it sends a reader to, and what it says is in them."""
PLUGIN = {
    "provider": "class Cluster:\n    supports_bids = False\n\n"
    "    def __init__(self, run_dir):\n        self.root = run_dir\n",
    "logger": "from tasks.services.tracking.protocols import MetricLogger\n\n\nclass Lines(MetricLogger):\n"
    "    def __init__(self, cfg, run):\n        self.path = run.root / 'lines.txt'\n\n"
    "    def row(self, stage, row):\n        self._write(f'{stage} {row[\"step\"]}')\n\n"
    "    def close(self, *, failed):\n        self._write(f'failed: {failed}')\n\n"
    "    def _write(self, line):\n        with self.path.open('a') as file:\n            file.write(line + '\\n')\n",
}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package with one entry point, as pip would leave it."""

    def put(group, name, value, code):
        module, folder = value.partition(":")[0], tmp_path / "site"
        info = folder / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(code, encoding="utf-8")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n", encoding="utf-8")
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return put


@pytest.mark.parametrize("title", NAMES)
def test_a_recipe_names_files_and_things_that_exist(title):
    recipe = RECIPES[title]

    for path, names in NAMES[title].items():
        assert f"`{path}`" in recipe, f"the recipe does not say that it ends in {path}"
        text = (ROOT / path).read_text("utf-8")
        assert [name for name in names if name not in recipe] == []
        assert [name for name in names if not re.search(rf"\b{re.escape(name)}\b", text)] == [], path


def test_every_recipe_names_only_files_that_exist_and_asks_for_a_line_in_the_changelog():
    for title, recipe in RECIPES.items():
        named = re.findall(r"`((?:flows|tasks|ups_models|configs|docs|tests)/[\w./-]+\.\w+)`", recipe)

        assert [path for path in named if "NNNN" not in path and not (ROOT / path).is_file()] == [], title
        assert "CHANGELOG" in recipe or title.startswith("Record")
    assert set(NAMES) < set(RECIPES)


# --- a stage


class ScaleStageConfig(StageConfig):
    """Training of the fifth stage."""

    target: Number = Field(1.0, ge=0, le=10, description="Factor on the mean square.")


class FiveStages(StagesConfig):
    """The four stages, and one more."""

    field_scale: ScaleStageConfig = Field(default_factory=ScaleStageConfig, description="Mean square of the field.")


class FiveStageConfig(PipelineConfig):
    """With a fifth stage."""

    stages: FiveStages = Field(default_factory=FiveStages, description="Training of each stage.")


class Scale(nn.Module):
    """One number."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))


def scale_loss(step, *, target):
    return (step.net.value - target * step.batch["u"].square().mean()).square()


SPEC = StageSpec("field_scale", "field_scale", lambda cfg: {"points": cfg.data.grid[0]}, needs=("operator",))
STAGE = Stage(
    SPEC,
    lambda cfg: Scale(),
    lambda cfg: partial(scale_loss, target=getattr(cfg.stages, SPEC.name).target),
    lambda cfg, data, progress, rng: window_batch(expect(data, Fields), rng, size=4, length=1),
)


@pytest.fixture
def fifth_stage(monkeypatch):
    """Its rows in the tables, and a config that trains it for two steps."""
    monkeypatch.setitem(SPECS, SPEC.name, SPEC)
    monkeypatch.setitem(STAGES, SPEC.name, STAGE)
    monkeypatch.setitem(CONSTANTS, SPEC.name, {})
    steps = [f"stages.{SPEC.name}={{epochs: 1, steps_per_epoch: 2, warmup_steps: 0}}"]
    return load_config(SMOKE, steps, schema=FiveStageConfig)


def test_a_fifth_stage_is_planned_trained_skipped_and_listed_by_its_rows_alone(run_dir, fifth_stage, ups):
    job = Job(fifth_stage, RunDir.of(run_dir, fifth_stage.checkpoint.dir), Policy(auto_resume=True))
    before = decide(job, snapshot.read_snapshot(fifth_stage, job.run))

    run_job(job)

    after = decide(job, snapshot.read_snapshot(fifth_stage, job.run))
    assert [decision.action for decision in before.stages] == ["skip"] * 4 + ["train"]
    assert [decision.action for decision in after.stages] == ["skip"] * 5
    listed = json.loads(ups("status", "checkpoints", "--json").stdout)["stages"][SPEC.name]
    assert (listed["status"], listed["step"], listed["checkpoint"]) == ("completed", 2, "field_scale_ema.pt")
    assert job.run.checkpoint("field_scale.pt").is_file()


def test_every_table_of_stages_knows_the_same_stages():
    tables = {
        "SPECS": list(SPECS),
        "STAGES": list(STAGES),
        "CONSTANTS": list(CONSTANTS),
        "StagesConfig": list(StagesConfig.model_fields),
        "StageChoice": list(get_args(StageChoice))[1:],
        "NETWORKS": list(NETWORKS),
        "Models": list(Models.__dataclass_fields__),
    }

    assert {name: stages for name, stages in tables.items() if stages != list(SPECS)} == {}


# --- a config field


class LaterOperatorStage(OperatorStageConfig):
    """With one field more."""

    input_noise: Number = Field(0.0, ge=0, le=1, description="Standard deviation of noise on the input field.")


class LaterStages(StagesConfig):
    """With it."""

    operator: LaterOperatorStage = Field(default_factory=LaterOperatorStage, description="The latent operator.")


class LaterConfig(PipelineConfig):
    """With it."""

    stages: LaterStages = Field(default_factory=LaterStages, description="Training of each stage.")


def test_a_new_field_is_read_bounded_and_counts_only_where_it_differs_from_its_default(tmp_path, smoke):
    path = tmp_path / "noisy.yaml"
    path.write_text(SMOKE.read_text("utf-8").replace("operator: {epochs", "operator: {input_noise: 0.1, epochs"))

    noisy, silent = load_config(path, schema=LaterConfig), load_config(SMOKE, schema=LaterConfig)

    assert noisy.stages.operator.input_noise == 0.1
    assert SPECS["operator"].config_hash(silent) == SPECS["operator"].config_hash(smoke)
    assert SPECS["operator"].config_hash(noisy) != SPECS["operator"].config_hash(smoke)
    with pytest.raises(ConfigError, match=r"stages\.operator\.input_noise: .* less than or equal to 1 \(given: 7\)"):
        load_config(SMOKE, ["stages.operator.input_noise=7"], schema=LaterConfig)


def test_every_default_is_recorded_so_that_a_later_change_of_it_is_noticed():
    recorded = json.loads((ROOT / "tests" / "data" / f"defaults_v{VERSION}.json").read_text("utf-8"))

    def keys(section: Section) -> dict[str, object]:
        values = {name: getattr(section, name) for name in type(section).model_fields}
        return {name: keys(value) if isinstance(value, Section) else None for name, value in values.items()}

    def missing(now, then):
        return [name for name in now if name not in then or (now[name] and missing(now[name], then[name]))]

    assert missing(keys(PipelineConfig()), recorded["pipeline"]) == []
    assert missing(keys(EvalConfig()), recorded["evaluation"]) == []


# --- a metric


def test_a_new_metric_is_in_the_result_its_markdown_and_the_report(run_dir, train, monkeypatch):
    row = Metric(
        Ensemble,
        "reach",
        "reach of the members",
        lambda it: it.members.amax().item(),
        (ENSEMBLES,),
        "u",
        headline=(ENSEMBLES,),
    )
    monkeypatch.setattr(registry, "METRICS", (*METRICS, row))

    report = train(auto_resume=True, redo_full_eval=True, skip_small_eval=True)

    result = read_result(run_dir / "reports" / "full_eval.json")
    assert result.probabilistic is not None
    assert result.probabilistic.samplers["diffusion"].scores["reach"] > 0
    assert "probabilistic/diffusion/reach" in registry.numbers_of(result)
    assert "| One-step reach of the members |" in (run_dir / "reports" / "full_eval.md").read_text("utf-8")
    assert "One-step reach of the members" in report.read_text("utf-8")


# --- an equation


def heat(u0, parameters, times, _on_progress):
    """u_t = D u_xx on the periodic unit interval, exactly for each mode."""
    k = 2 * torch.pi * torch.arange(u0.shape[-1] // 2 + 1, dtype=torch.float64)
    decay = torch.exp(-parameters["D"] * k**2 * torch.tensor(times, dtype=torch.float64)[:, None])
    return torch.fft.irfft(torch.fft.rfft(u0)[:, None] * decay[:, None], n=u0.shape[-1])


def some_waves(n, points, _parameters, rng):
    return smooth_fields(n, points, (True,), rng, waves=3, channels=1)


HEAT = Problem(
    name="heat1d",
    channels=("temperature",),
    parameters=(Parameter("D", 0.01, low=0.0, logarithmic=True),),
    axes=(Axis("x"),),
    sampling=Sampling(points=64, nt=11, t_end=0.5),
    order=4,
    conserved=("temperature",),
    symmetries=(mirrored(1, odd=()), mirrored(1, odd=(0,))),
    pattern="heat1d_D{}_{}.h5",
    seconds=0.001,
    solver=Solver(some_waves, heat),
)


def test_a_new_equation_is_generated_trained_and_reported_by_its_row_and_its_solver_alone(tmp_path, monkeypatch, ups):
    for table in (PROBLEMS, EVOLVING):
        monkeypatch.setitem(table, HEAT.name, HEAT)
    settings = ("data.problem=heat1d", "data.generate.n=24", "data.generate.parameters=[0.01, 0.02]")

    made = ups("data", "generate", "heat1d", "--d", "0.05", "--n", "3", "--out", "heat.h5", cwd=tmp_path)
    shown = ups("data", "info", "heat.h5", cwd=tmp_path)
    run_job(parse(TrainRequest(config=Path("configs/smoke.yaml"), run_dir=tmp_path, set=settings)))

    assert made.returncode == 0, made.stderr
    assert "heat1d, 3 samples, D 0.05" in shown.stdout
    assert "heat1d" in (tmp_path / "reports" / "report.html").read_text("utf-8")
    result = read_result(tmp_path / "reports" / "full_eval.json")
    assert result.rollout is not None
    assert set(result.rollout.by_parameter) == {"0.01", "0.02"}


# --- a machine provider, a metric logger


def test_a_provider_of_an_installed_package_is_listed_and_made_for_the_run(install, tmp_path, ups):
    install("ups.providers", "cluster", "recipe_cluster:Cluster", PLUGIN["provider"])

    provider = provider_for("cluster", tmp_path)

    assert vars(provider) == {"root": tmp_path}
    assert "{vast,runpod,ssh,local,cluster}" in ups("launch", "--help").stdout


def test_a_logger_of_an_installed_package_gets_what_a_run_measures(install, run_dir):
    install("ups.loggers", "lines", "recipe_lines:Lines", PLUGIN["logger"])

    run_job(parse(TrainRequest(config=SMOKE, run_dir=run_dir, stage="steady_prior", force_train=True)))

    lines = (run_dir / "lines.txt").read_text("utf-8").splitlines()
    assert lines == [*(f"steady_prior {step}" for step in range(1, 11)), "failed: False"]


# --- a command


def test_a_new_command_is_listed_and_runs(tmp_path, monkeypatch, ups):
    (tmp_path / "seed.py").write_text(
        '"""`ups seed`: show a seed."""\n\nfrom flows.cli.views.console import echo\n\n\n'
        'def add(parser):\n    """A number."""\n    parser.add_argument("--seed", type=int, default=3)\n\n\n'
        'def run(arguments):\n    """Print it."""\n    echo(f"seed {arguments.seed}")\n    return 0\n',
        encoding="utf-8",
    )
    monkeypatch.setitem(COMMANDS, "seed", Command("Show a seed."))
    monkeypatch.setattr(flows.cli.commands, "__path__", [*flows.cli.commands.__path__, str(tmp_path)])

    listed, done, refused = ups("--help"), ups("seed", "--seed", "5"), ups("seed", "--seed", "x")

    assert "Show a seed." in listed.stdout
    assert (done.returncode, done.stdout) == (0, "seed 5\n")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
