"""What training on rented machines may be asked for, and what the request comes to; nothing is started here."""

import logging
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from flows.requests.flat import FLAGS, FlatRequest
from flows.requests.job import configs_of
from flows.requests.machine import MachineWishes
from flows.requests.train import TrainRequest
from tasks.services.rental.choosing.buyer import Buyer
from tasks.services.rental.choosing.market import Market
from tasks.services.rental.choosing.pace import Work
from tasks.services.rental.choosing.terms import Terms, deadline_of
from tasks.services.rental.code import GIT
from tasks.services.rental.journal import Journal
from tasks.services.rental.launches import paces_beside
from tasks.services.rental.limits import Limits
from tasks.services.rental.notices import require_safe_webhook
from tasks.services.rental.provider import Hosted, KeyRefused, MachineSpec, Provider
from tasks.services.rental.providers import registry
from tasks.services.run.paths import JOURNAL
from ups_models.config.schema import PipelineConfig
from ups_models.errors import BadInput
from ups_models.stages.spec import SPECS

logger = logging.getLogger(__name__)

TRAIN = ("config", "resume_from_wandb", "resume_mode", "stage", "set")
"""What a launch may be asked about the training itself; the rest is decided by the machine's job."""


TIMES = tuple(one.name for one in fields(Limits) if one.name.endswith("_s") and one.name != "backoff_s")
"""Every time in Limits is a flag of the same name."""


def _choices(schema: dict[str, Any]) -> None:
    schema["enum"] = list(registry.names())


class LaunchRequest(FlatRequest):
    """Parameters of the flow train-on-vast. Holds no secret: keys come from the environment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: TrainRequest = Field(
        TrainRequest(config=Path("configs/burgers_32dim.yaml")),
        description="What to train.",
        json_schema_extra={FLAGS: [*TRAIN]},
    )
    auto_shutdown: bool = Field(True, description="Destroy every machine when the training ends.")
    keep_on_failure: bool = Field(False, description="Leave the machine running when the training fails. It costs.")
    wishes: MachineWishes = Field(
        MachineWishes(),
        description="The machine to rent.",
        json_schema_extra={FLAGS: [*MachineWishes.model_fields]},
    )
    max_total_cost: float = Field(Limits.max_usd, gt=0, le=100_000, description="Most to pay in all, in USD.")
    max_hours: float = Field(Limits.max_hours, gt=0, le=10_000, description="Give up after so many hours.")
    deadline: str | None = Field(
        None, description="By when all is done: 08:00, the next one, or a date as in 2026-12-01T08:00."
    )
    expected_hours: float | None = Field(
        None, gt=0, le=10_000, description="Hours that the training takes on such a machine; estimated otherwise."
    )
    hour_is_worth: float = Field(
        Terms.usd_per_hour_sooner,
        ge=0,
        le=1000,
        description="USD that one hour sooner is worth: machines are compared by their cost to the end plus this.",
    )
    budget_file: Path | None = Field(
        None, description="YAML with usd and usd_per_day, which all launches that name it spend together."
    )
    provider: str = Field(
        registry.DEFAULT,
        description="Who rents the machines out; ssh: your own, local: this one, to try it without an account.",
        json_schema_extra=_choices,
    )
    hosts: str | None = Field(
        None, description="Your machines for --provider ssh: [USER@]HOST[:PORT][=USD an hour], with commas between."
    )
    also: str | None = Field(
        None, description="Further providers, with commas between them: the best offer of all is taken."
    )
    takeover: bool = Field(
        False, description="Take the run and its machines over from the launch that works on it elsewhere."
    )
    notify: str | None = Field(
        None, description="Tell this webhook how the launch ended: https, or http on this machine."
    )
    code: str | None = Field(
        None, pattern=GIT, description="Send this commit, git:URL@COMMIT, instead of the checkout as it is."
    )
    run_dir: Path = Field(Path(), description="Folder of the journal of rented machines.")
    poll_s: float = Field(Limits.poll_s, gt=0, le=600, description="Look at the machine this often, in seconds.")
    boot_timeout_s: float = Field(
        Limits.boot_timeout_s,
        gt=0,
        le=86_400,
        description="Give a machine up when it has not come up after so many seconds.",
    )
    install_timeout_s: float = Field(
        Limits.install_timeout_s,
        gt=0,
        le=86_400,
        description="Give a machine up when it shows no sign of life for so many seconds while it installs.",
    )
    download_timeout_s: float = Field(
        Limits.download_timeout_s,
        gt=0,
        le=604_800,
        description="The same while it downloads its data or checkpoints.",
    )
    data_timeout_s: float = Field(
        Limits.data_timeout_s,
        gt=0,
        le=604_800,
        description="The same while it generates or reads its data.",
    )
    evaluation_timeout_s: float = Field(
        Limits.evaluation_timeout_s,
        gt=0,
        le=604_800,
        description="The same while it evaluates and writes the report.",
    )
    stall_max_s: float = Field(
        Limits.stall_max_s,
        gt=0,
        le=86_400,
        description="The same while it trains: at most so many seconds without a step or a line in its log.",
    )
    stall_min_s: float = Field(
        Limits.stall_min_s,
        gt=0,
        le=86_400,
        description="The same at least: between the two it is ten times the longest time from step to step.",
    )
    silence_timeout_s: float = Field(
        Limits.silence_timeout_s,
        gt=0,
        le=604_800,
        description="The same where the machine's log cannot be read, so that nobody knows what it does.",
    )
    gone_after_s: float = Field(
        Limits.gone_after_s,
        gt=0,
        le=86_400,
        description="Give a machine up whose heartbeat, once a minute in its log, stopped so many seconds ago.",
    )
    lost_after_s: float = Field(
        Limits.lost_after_s,
        gt=0,
        le=3600,
        description="Take a machine for lost when it was not running for so many seconds.",
    )
    refused_after_s: float = Field(
        Limits.refused_after_s,
        gt=0,
        le=86_400,
        description="Give up when the provider refuses a key that was good before for so many seconds.",
    )

    @model_validator(mode="before")
    @classmethod
    def _new_run(cls, data: Any) -> Any:
        """Without a run to resume there is always a new one: an empty name, and `never`, may say so."""
        if not isinstance(data, Mapping) or data.get("resume_from_wandb"):
            return data
        empty = (("resume_from_wandb", ""), ("resume_mode", "never"))
        return {key: value for key, value in data.items() if (key, value) not in empty}

    @field_validator("train")
    @classmethod
    def _holds_what_a_launch_passes_on(cls, train: TrainRequest) -> TrainRequest:
        others = sorted(train.model_fields_set - set(TRAIN))
        if others:
            raise ValueError(f"{others[0]}: has no meaning on a rented machine; leave it out")
        return train

    @field_validator("notify")
    @classmethod
    def _is_safe(cls, notify: str | None) -> str | None:
        if notify is not None:
            require_safe_webhook(notify)
        return notify

    @field_validator("provider")
    @classmethod
    def _is_known(cls, provider: str) -> str:
        registry.entry_of(provider)
        return provider

    @field_validator("also")
    @classmethod
    def _are_known(cls, also: str | None) -> str | None:
        for name in also.split(",") if also else ():
            registry.entry_of(name)
        return also

    @property
    def providers(self) -> str:
        """All that are asked, each once, with commas between them."""
        return ",".join(dict.fromkeys([self.provider, *(self.also.split(",") if self.also else ())]))

    @property
    def journal_path(self) -> Path:
        """Where it is noted what was rented."""
        return self.run_dir / JOURNAL

    @property
    def shutdown(self) -> str:
        """When a machine destroys itself at the end of its job: never, success or always."""
        return "never" if not self.auto_shutdown else "success" if self.keep_on_failure else "always"

    def machine(self) -> MachineSpec:
        """The machine to look for."""
        spec = self.wishes.spec(self.max_hours)
        return replace(spec, needs_gpu=configs_of(self.train)[0].runtime.device != "cpu")

    def terms(self, cfg: PipelineConfig, journal: Journal, now: float) -> Terms:
        """What it is to come to. Raises BadInput for a deadline that is no time, or has passed."""
        wanted = [name for name in SPECS if self.train.stage in ("all", name)]
        work = Work(tuple((name, cfg.stages.of(name).total_steps) for name in wanted))
        if journal.open_job is not None and journal.deadline is not None and journal.deadline[0] == self.deadline:
            deadline: float | None = journal.deadline[1]
        else:
            deadline = deadline_of(self.deadline, now) if self.deadline is not None else None
        return Terms(work, self.expected_hours, self.hour_is_worth, deadline, self.max_total_cost)

    def limits(self) -> Limits:
        """What the training may cost, and how long anything is waited for."""
        return Limits(
            max_usd=self.max_total_cost,
            max_hours=self.max_hours,
            **{name: getattr(self, name) for name in TIMES},
        )


def provider_of(request: LaunchRequest) -> Provider:
    """The provider, ready to be asked. Raises ProviderRefused without a key, BadInput where hosts are to be named."""
    provider = registry.provider_for(request.providers, request.run_dir)
    if isinstance(provider, Hosted):
        provider.use_hosts(request.hosts or "")
    elif request.hosts:
        raise BadInput(f"--hosts: --provider {request.providers} has machines of its own; leave it out, or choose ssh")
    return provider


def buyer_of(request: LaunchRequest, provider: Provider) -> Buyer:
    """What would decide about the first machine; it writes nothing. Raises BadInput."""

    def refuse(error: KeyRefused) -> None:
        raise error

    cfg, _ = configs_of(request.train)
    journal = Journal(request.journal_path)
    market = Market(provider, request.machine(), journal, refuse, lambda: None)
    return Buyer(market, journal, request.terms(cfg, journal, time.time()), paces_beside(request.journal_path))
