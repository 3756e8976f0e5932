"""What a run may be asked for: command-line flags, UI form and deployment parameters, declared once."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from flows.requests.form import accepted_beside, form_of, with_switches
from tasks.services.tracking.restoring import ResumeMode
from ups_models.config.faults import NOT_AS_WRITTEN, fault_of
from ups_models.wording import shown

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
    stage: StageChoice = Field("all", description="Train only this stage, and evaluate nothing; all: everything.")
    auto_resume: bool = Field(False, description="Skip completed stages and resume interrupted ones.")
    force_train: bool = Field(False, description="Train again, replacing what the run directory holds.")
    skip_training: bool = Field(False, description="Skip training and evaluate the existing checkpoints.")
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
        description="allow: resume that W&B run, or create it; must: it has to exist; never: track a new run.",
    )
    force: bool = Field(False, description="Let --resume-from-wandb replace newer checkpoints in the run directory.")
    run_dir: Path = Field(
        Path(),
        description="Folder of checkpoints/, reports/ and data/; relative to where the run starts.",
    )
    device: Literal["auto", "cpu", "cuda"] | None = Field(None, description="Overrides runtime.device of the config.")
    processes: int | None = Field(
        None, ge=1, le=256, description="Overrides runtime.processes of the config: processes that train together."
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="Overrides runtime.threads of the config: CPU threads of the run from now on."
    )
    init_from: Path | None = Field(
        None,
        description="Start each stage from the weights of this run, of any equation and resolution, where they fit.",
    )
    trust_code: tuple[str, ...] = Field(
        (),
        description="Execute this file of the code that came with the run, as my_net.py. May be given several times.",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_mode(cls, data: Any) -> Any:
        return with_switches(data)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The form of Prefect's UI, and what its server lets pass."""
        schema = handler(core_schema)
        body = handler.resolve_ref_schema(schema)
        body["patternProperties"] = accepted_beside(body["properties"])
        body["properties"] = form_of(body["properties"])
        return schema

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


HELD = ("train", "wishes")
"""Under these names a request is held by another, and its faults are located."""


def first_fault(error: ValidationError) -> str:
    """What is wrong with a request, by its flag: the first fault of it."""
    fault = fault_of(error)
    names = [name for name in fault.location if name not in HELD]
    if not names:
        return fault.message
    how = f" (given: {shown(fault.given)}); --help says how" if fault.message == NOT_AS_WRITTEN else ""
    return f"{_flag(names[0])}: {fault.message}{how}"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
