"""The only importer of wandb: its public API, and runs that are open for writing."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from tasks.services.checkpoints.uploads import UploadFailed
from tasks.services.run import environment
from tasks.services.run.paths import RunDir
from tasks.services.tracking.protocols import ReportPayload, TrackingUnavailable
from tasks.services.tracking.run_path import RunPath, base_url, chosen_address, require_safe_address
from ups_models.config.schema import TrackingConfig
from ups_models.stages.spec import SPECS
from ups_models.wording import first_line

PREEMPTED = 143
PRIVATE = {
    "console": "off",
    "save_code": False,
    "disable_git": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "silent": True,
}
GLOBAL_STEP = "global_step"  # the axis of all charts: steps of the optimiser, counted over all stages


class Session:
    """A run that is open for writing."""

    def __init__(self, run: Any, cfg: TrackingConfig) -> None:
        self.run, self.cfg = run, cfg
        self.path, self.url = RunPath(str(run.id), str(run.project), str(run.entity)), str(run.url)
        run.define_metric(GLOBAL_STEP, hidden=True)
        for stage in SPECS:
            run.define_metric(f"{stage}/*", step_metric=GLOBAL_STEP)

    def log(self, row: Mapping[str, Any]) -> None:
        """One row. Never with step=: W&B drops rows whose step is not above the last one, without an error."""
        self.run.log(dict(row))

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Values that stand for the whole run."""
        self.run.summary.update(dict(values))

    def upload(
        self, folder: Path, collection: str, kind: str, aliases: tuple[str, ...], *, within_s: float | None = None
    ) -> str:
        """Upload a folder as one version and wait until it is committed; its full name. Raises UploadFailed.

        Without `within_s` the wait is as long as tracking.upload_timeout_s says.
        """
        try:
            artifact = _wandb().Artifact(collection, type=kind)
            for path in sorted(item for item in folder.rglob("*") if item.is_file()):
                name = path.relative_to(folder).as_posix()
                artifact.add_file(str(path), name=name, policy="immutable", skip_cache=True)
            logged = self.run.log_artifact(artifact, aliases=list(aliases))
            logged.wait(timeout=int(self.cfg.upload_timeout_s if within_s is None else within_s))
            state, version = str(logged.state), str(logged.version)
        except Exception as error:
            raise UploadFailed(f"{collection} was not uploaded to W&B ({reason(error)})") from error
        if state != "COMMITTED":
            raise UploadFailed(f"{collection} was not uploaded to W&B (the set is {state}, not COMMITTED)")
        return self.path.qualified(f"{collection}:{version}")

    def report(self, payload: ReportPayload, folder: Path) -> None:
        """Metrics in the summary, and one row with tables, figures (kept in `folder` meanwhile) and the page."""
        wandb = _wandb()
        row: dict[str, Any] = {"report": wandb.Html(payload.html, inject=False)}
        for name, metrics in payload.metrics.items():
            row[f"{name}/metrics"] = wandb.Table(["metric", "value"], [list(item) for item in metrics.items()])
            self.summarise({f"{name}/{key}": value for key, value in metrics.items()})
        folder.mkdir(parents=True, exist_ok=True)
        for name, image in payload.images.items():
            path = folder / f"{name}.png"
            path.write_bytes(image)
            row[f"figures/{name}"] = wandb.Image(str(path))
        self.log(row)

    def alert(self, title: str, text: str, *, is_error: bool) -> None:
        """Have W&B tell the run's owner, by e-mail or Slack as the account is set."""
        level = _wandb().AlertLevel
        self.run.alert(title, text, level=level.ERROR if is_error else level.INFO)

    def preempt(self) -> None:
        """Tell W&B that the machine goes away, and send the last rows."""
        self.run.mark_preempting()
        self.run.finish(exit_code=PREEMPTED)

    def finish(self, code: int) -> None:
        """Send the last rows and end the run."""
        self.run.finish(exit_code=code)


class Client:
    """The two ways into W&B. The first use imports wandb, which takes a second: a run that is skipped does not pay."""

    def api(self, cfg: TrackingConfig) -> Any:
        """What the server knows of runs and artifacts; no answer is awaited longer than the config says."""
        require_safe_address()
        try:
            return _wandb().Api(overrides=chosen_address(), timeout=int(cfg.connect_timeout_s))
        finally:
            environment.drop("WANDB_SERVICE")  # a child that inherited it would die with our client

    def init(self, settings: Mapping[str, Any], **run: Any) -> Any:
        """Open a run for writing."""
        require_safe_address()
        wandb = _wandb()
        try:
            return wandb.init(settings=wandb.Settings(**settings, **chosen_address()), **run)
        except Exception:
            wandb.teardown()
            raise
        finally:
            environment.drop("WANDB_SERVICE")


CLIENT = Client()


def open_session(
    path: RunPath, *, exists: bool, config: Mapping[str, Any], run: RunDir, cfg: TrackingConfig, client: Client = CLIENT
) -> Session:
    """Open the run for writing, or raise TrackingUnavailable after a bounded wait. One process writes to a run.

    Argv, printed text, the git remote and the host's name are kept out of it.
    """
    run.root.mkdir(parents=True, exist_ok=True)
    timeouts = {"init_timeout": cfg.connect_timeout_s, "finish_timeout": cfg.finish_timeout_s}
    with unavailable(f"W&B at {base_url()} did not open run {path}"):
        opened = client.init(
            {**PRIVATE, **timeouts},
            entity=path.entity,
            project=path.project,
            id=path.id,
            name=None if exists else path.id,
            resume="must" if exists else "never",
            dir=str(run.root),
            config=dict(config),
            mode="online",
        )
        return Session(opened, cfg)


@contextmanager
def unavailable(what_failed: str, advice: str = "") -> Iterator[None]:
    """Turn whatever W&B's client raises in the block into a TrackingUnavailable that says what failed."""
    try:
        yield
    except Exception as error:
        raise TrackingUnavailable(f"{what_failed} ({reason(error)}){advice}") from error


def reason(error: BaseException) -> str:
    """The first line of an error, or its class."""
    return first_line(error)


def _wandb() -> ModuleType:
    """Silent, because what there is to say we say, and without telemetry."""
    environment.put("WANDB_SILENT", "true", replace=False)
    environment.put("WANDB_ERROR_REPORTING", "false", replace=False)
    import wandb

    return wandb
