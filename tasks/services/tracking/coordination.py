"""What W&B knows of a run: whether it exists, how far it is, which machine may write to it, how the last one ended."""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.services.run import environment
from tasks.services.run.paths import RunDir
from tasks.services.tracking.protocols import (
    ControllerRecord,
    Coordination,
    FencedOut,
    RemoteProgress,
    TrackingUnavailable,
)
from tasks.services.tracking.run_path import KEY, ExistingRun, Received, RunPath, base_url
from tasks.services.tracking.wandb_client import CLIENT, GLOBAL_STEP, Client, open_session, reason, unavailable
from ups_models.config.schema import TrackingConfig
from ups_models.reading import parse_json
from ups_models.stages.spec import SPECS

BASE, ROWS_BEFORE = "base", "rows_before"  # in the summary, by stage: the global step that it starts at; older rows
GENERATION, OUTCOME, CONTROLLER = "ups_generation", "ups_outcome", "ups_controller"  # keys in the config of a run


def find_run(path: RunPath, cfg: TrackingConfig, client: Client = CLIENT) -> ExistingRun | None:
    """The run, or None where W&B says that there is none. Raises TrackingUnavailable when it says nothing."""
    try:
        run = client.api(cfg).run(str(path))
        return ExistingRun(RunPath(run.id, run.project, run.entity), str(run.name), run.url, _sent(run))
    except Exception as error:
        if "could not find run" in str(error).lower():
            return None
        raise TrackingUnavailable(
            f"W&B at {base_url()} could not be asked for run {path} ({reason(error)}). If the address is right and "
            f"reachable, check the key: {KEY} is {'set' if environment.is_set(KEY) else 'not set'}"
        ) from error


def alert(
    path: RunPath, cfg: TrackingConfig, title: str, text: str, *, is_error: bool, client: Client = CLIENT
) -> None:
    """Have W&B tell the owner of a run that nobody writes to any more. Raises TrackingUnavailable."""
    with tempfile.TemporaryDirectory() as folder, unavailable(f"W&B did not take an alert of run {path}"):
        run = RunDir.of(Path(folder), Path("checkpoints"))
        session = open_session(path, exists=True, config={}, run=run, cfg=cfg, client=client)
        session.alert(title, text, is_error=is_error)
        session.finish(int(is_error))


def received(found: ExistingRun, cfg: TrackingConfig, client: Client = CLIENT) -> Received:
    """Which rows of the stages have arrived, asked of the history. Raises TrackingUnavailable."""
    with unavailable(f"the history of run {found.path} could not be read"):
        run = client.api(cfg).run(str(found.path))
        rows = {}
        for stage in (stage for stage in SPECS if f"{stage}/step" in found.sent):
            scan = run.scan_history(keys=[f"{stage}/step", GLOBAL_STEP], use_cache=False)
            rows[stage] = [(int(row[f"{stage}/step"]), int(row[GLOBAL_STEP])) for row in scan]
        return Received(found.sent, rows)


def generation() -> int | None:
    """Which machine of a launch this process runs on, counted from 1; None on a machine that nobody rents."""
    return environment.number(environment.GENERATION)


@dataclass(frozen=True)
class WandbCoordination(Coordination):
    """Coordination by the config of a W&B run."""

    path: RunPath
    cfg: TrackingConfig
    client: Client = CLIENT

    def acquire_fence(self, generation: int) -> None:
        """And forget how an earlier one ended."""
        with unavailable(f"run {self.path} could not be claimed for the next machine"):
            self._update({GENERATION: generation, OUTCOME: ""})

    def check_fence(self) -> None:
        """A machine that was given up but still works must not overwrite its successor's checkpoints."""
        own = generation()
        if own is not None and self.progress().generation > own:
            raise FencedOut(f"run {self.path}: a later machine has taken over; this one stops")

    def record_exit(self, generation: int, code: int) -> None:
        """As `generation:code`."""
        if self.progress().generation <= generation:
            with unavailable(f"the exit code could not be recorded in run {self.path}"):
                self._update({OUTCOME: f"{generation}:{code}"})

    def progress(self) -> RemoteProgress:
        """From the run's config and summary."""
        with unavailable(f"run {self.path} could not be asked"):
            run = self._run()
            sent = _sent(run)
            number, _, code = str(run.config.get(OUTCOME, "")).partition(":")
            stage = next((name for name in reversed(SPECS) if f"{name}/step" in sent), "")
            return RemoteProgress(
                int(run.config.get(GENERATION, 0)),
                (int(number), int(code)) if code else None,
                stage,
                int(sent.get(f"{stage}/step", 0)),
                str(run.state),
                _controller(run.config.get(CONTROLLER)),
            )

    def claim(self, record: ControllerRecord) -> None:
        """As JSON."""
        with unavailable(f"run {self.path} could not be told who works on it"):
            self._update({CONTROLLER: json.dumps(asdict(record))})

    def _update(self, values: dict[str, int | str]) -> None:
        run = self._run()
        run.config.update(values)
        run.update()

    def _run(self) -> Any:
        return self.client.api(self.cfg).run(str(self.path))


def _controller(text: object) -> ControllerRecord | None:
    """What the config holds; None where that is nothing, or nothing of ours."""
    try:
        raw = parse_json(str(text or ""), allow_nan=False)
        job = {str(name): str(value) for name, value in raw["job"].items()}
        seen_at, names = float(raw["seen_at"]), ("id", "host", "started_at")
        told = {name: str(raw[name]) for name in names}
        return ControllerRecord(number=int(raw["number"]), pid=int(raw["pid"]), seen_at=seen_at, job=job, **told)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def _sent(run: Any) -> dict[str, float | str]:
    """Steps and starts of the stages as the summary has them, as far as they are of the right type."""
    summary = dict(run.summary_metrics or {})
    kinds: dict[str, Any] = {GLOBAL_STEP: int | float}
    for stage in SPECS:
        kinds |= {f"{stage}/{key}": int | float for key in ("step", BASE, ROWS_BEFORE)} | {f"{stage}/started_at": str}
    return {key: summary[key] for key, kind in kinds.items() if isinstance(summary.get(key), kind)}
