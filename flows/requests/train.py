"""What a run may be asked for: command-line flags, UI form and deployment parameters, declared once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flows import ROOT
from tasks.services.data.datasets import require_named_files
from tasks.services.run.paths import RunDir
from tasks.services.stages.plan import Decision, EvaluationDecision, Policy, plan, plan_evaluation, require_operator
from tasks.services.tracking.restoring import ResumeMode
from tasks.services.tracking.wandb_tracking import RunPath, has_key, tracking_mode
from ups_models.config.loading import load_config
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.errors import BadInput
from ups_models.stages.spec import SPECS

StageChoice = Literal["all", "operator", "diff_residual", "consistency_distill", "steady_prior"]

CONFLICTS = (
    ("auto_resume", "force_train"),
    ("skip_training", "force_train"),
    ("resume_from_wandb", "force_train"),
    ("skip_small_eval", "redo_small_eval"),
    ("skip_full_eval", "redo_full_eval"),
)


class TrainRequest(BaseModel):
    """Parameters of the flow train-pipeline."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: Path = Field(
        Path("configs/quickstart.yaml"),
        description="Config of the pipeline; also --train-config.",
        json_schema_extra={"flag": "--train-config"},
    )
    stage: StageChoice = Field("all", description="Train this stage alone, and evaluate nothing; all: everything.")
    auto_resume: bool = Field(False, description="Skip what is completed and go on with what was interrupted.")
    force_train: bool = Field(False, description="Train again, replacing what the run directory holds.")
    skip_training: bool = Field(False, description="Evaluate what is there.")
    small_eval_config: Path = Field(Path("configs/small_eval.yaml"), description="Config of the small evaluation.")
    full_eval_config: Path = Field(Path("configs/full_eval.yaml"), description="Config of the full evaluation.")
    skip_small_eval: bool = Field(False, description="Leave out the small evaluation.")
    skip_full_eval: bool = Field(False, description="Leave out the full evaluation.")
    redo_small_eval: bool = Field(False, description="Run the small evaluation again, even if nothing changed.")
    redo_full_eval: bool = Field(False, description="Run the full evaluation again, even if nothing changed.")
    set: tuple[str, ...] = Field((), description="Override a config value: latent.dim=64. May be given several times.")
    resume_from_wandb: str | None = Field(
        None, description="Restore the checkpoints of this W&B run first: id, project/id or entity/project/id."
    )
    resume_mode: ResumeMode = Field(
        "allow",
        description="allow: go on with that W&B run, or begin it; must: it has to exist; never: track a new run.",
    )
    force: bool = Field(False, description="Let --resume-from-wandb replace newer checkpoints in the run directory.")
    run_dir: Path = Field(
        Path(),
        description="Folder of checkpoints/, reports/ and data/; relative to where the run starts.",
    )
    device: Literal["auto", "cpu", "cuda"] | None = Field(None, description="Overrides runtime.device of the config.")

    @model_validator(mode="after")
    def _flags_agree(self) -> Self:
        for one, other in CONFLICTS:
            if getattr(self, one) and getattr(self, other):
                raise ValueError(f"{_flag(one)} and {_flag(other)} contradict each other; give one of them")
        for name in ("skip_training", "redo_small_eval", "redo_full_eval"):
            if self.stage != "all" and getattr(self, name):
                raise ValueError(f"{_flag(name)} and --stage contradict each other; give one of them")
        if self.resume_from_wandb is None and (self.force or self.resume_mode != "allow"):
            given = "--force" if self.force else "--resume-mode"
            raise ValueError(f"{given} says how to restore; name the run with --resume-from-wandb")
        if self.skip_training and self.skip_small_eval and self.skip_full_eval:
            raise ValueError("--skip-training, --skip-small-eval and --skip-full-eval leave nothing to do")
        return self


@dataclass(frozen=True)
class Job:
    """A request, resolved and checked: all that the flow needs to know."""

    cfg: PipelineConfig
    run: RunDir
    policy: Policy
    evaluations: dict[str, EvalConfig]
    redo: frozenset[str]
    skip_training: bool
    source: RunPath | None


def resolve(request: TrainRequest) -> Job:
    """Check everything that can be checked before work begins; writes nothing.

    Raises BadInput, in one line, for whatever the user must correct.
    """
    overrides = list(request.set)
    if request.device is not None:
        overrides.append(f"runtime.device={request.device}")
    cfg = load_config(find_config(request.config), overrides, schema=PipelineConfig)
    evaluations = {}
    if request.stage == "all":
        wanted = {
            "small_eval": (request.skip_small_eval, request.small_eval_config),
            "full_eval": (request.skip_full_eval, request.full_eval_config),
        }
        evaluations = {
            name: load_config(find_config(path), schema=EvalConfig)
            for name, (skipped, path) in wanted.items()
            if not skipped
        }
    require_device(cfg)
    run = RunDir.of(request.run_dir, cfg.checkpoint.dir)
    run.require_writable()
    source = None
    if request.resume_from_wandb is not None:
        source = RunPath.parse(request.resume_from_wandb, cfg.tracking)
        require_tracking(cfg)
    policy = Policy(request.stage, request.auto_resume or source is not None, request.force_train)
    if source is not None:  # what there is to do shows when the checkpoints are here
        require_named_files(cfg, run, [] if request.skip_training else list(SPECS))
    elif request.skip_training:
        require_operator(cfg, run)
        require_named_files(cfg, run, [name for name in SPECS if run.checkpoint(SPECS[name].checkpoint).is_file()])
    else:
        require_named_files(cfg, run, [item.stage for item in plan(cfg, run, policy) if item.runs])
    redo = frozenset(name for name in evaluations if getattr(request, f"redo_{name}"))
    return Job(cfg, run, policy, evaluations, redo, request.skip_training, source)


def resolve_plan(request: TrainRequest) -> list[Decision | EvaluationDecision]:
    """What the flow would do for this request, stage by stage and evaluation by evaluation."""
    job = resolve(request)
    decisions: list[Decision | EvaluationDecision] = [*plan(job.cfg, job.run, job.policy)]
    moving = any(isinstance(item, Decision) and item.runs for item in decisions)
    for name, settings in job.evaluations.items():
        if moving:
            decisions.append(EvaluationDecision(name, True, "after training", settings))
        else:
            decisions.append(plan_evaluation(name, settings, job.cfg, job.run, redo=name in job.redo))
    return decisions


def first_fault(error: ValidationError) -> str:
    """What is wrong with a request, by its flag: the first fault of it."""
    first = error.errors(include_url=False)[0]
    names = [str(name) for name in first["loc"] if name != "train"]  # of a request that holds this one
    flag = f"{_flag(names[0])}: " if names else ""
    return flag + first["msg"].removeprefix("Value error, ")


def find_config(path: Path) -> Path:
    """The path itself, or, where it does not exist, the config of that name that we ship."""
    shipped = ROOT / path
    return shipped if not path.exists() and shipped.is_file() else path


def require_tracking(cfg: PipelineConfig) -> None:
    """Raise BadInput when a W&B run is to be restored without a way to ask for it."""
    if tracking_mode(cfg.tracking) != "online":
        raise BadInput(
            "--resume-from-wandb needs W&B online, but "
            + ("no key is set: put it into WANDB_API_KEY" if not has_key() else "tracking.mode or WANDB_MODE says not")
        )


def require_device(cfg: PipelineConfig) -> None:
    """Raise BadInput when the config insists on CUDA and there is none."""
    if cfg.runtime.device == "cuda":
        from tasks.services.stages.training import select_device

        select_device(cfg)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
