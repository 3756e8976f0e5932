"""Each protection switched off in turn: the harness must notice every time, or it guards nothing.

`python -m harness.mutations [--only NAME]`.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from prefect.client.schemas.actions import DeploymentUpdate
from torch import Tensor

from flows import dag
from flows.prefect import chain as chains
from flows.prefect import deploy as deploying
from flows.prefect import earlier, outcome, wishes
from flows.prefect.home import PrivateHome
from harness.chaos import retries
from harness.chaos.__main__ import echo, isolate
from harness.noticing import (
    Notice,
    by_a_chain,
    by_a_damaged_database,
    by_a_dying_server,
    by_a_failing_stage,
    by_a_server_that_is_away,
    by_batch_signals,
    by_cancels,
    by_damage,
    by_evaluating,
    by_kills,
    by_mixing,
    by_ranks,
    by_retries,
    by_rows,
)
from tasks.services.data import datasets
from tasks.services.run import jsonl, signals
from tasks.services.run import lock as locks
from tasks.services.run.history import History
from tasks.services.run.lock import OwnedRun
from tasks.services.run.paths import RunDir
from tasks.services.run.status import StatusStore
from tasks.services.stages import deciding, descent, execution, training
from tasks.services.stages import snapshot as snapshots
from tasks.services.stages.job import Job
from tasks.services.stages.plan import EvaluationDecision
from tasks.services.stages.snapshot import Snapshot, changed_input
from tasks.services.tracking.wandb_loggers import OnlineLogger
from ups_models import files
from ups_models.config.section import is_power_of_two
from ups_models.stages import lineage
from ups_models.stages.spec import SPECS
from ups_models.training import checkpoint, loop, parallel
from ups_models.training import state as train_state
from ups_models.training.parallel import World
from ups_models.training.state import TrainState


def write_in_place() -> None:
    """No temporary file, no rename: a kill while writing leaves half a file under the real name."""

    @contextmanager
    def in_place(path: Path) -> Iterator[Path]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        files._crash_point("temporary created", path)
        yield path
        files._crash_point("renamed", path)

    _replace(files, "atomic_path", in_place)


def forget_ema() -> None:
    """The average is not restored: it starts again from the weights."""
    _after_load(lambda state: state.ema.load_state_dict(state.net.state_dict()))


def forget_step() -> None:
    """The step is not restored exactly: one step is done twice."""

    def step_back(state: TrainState) -> None:
        state.step -= 1

    _after_load(step_back)


def trust_every_file() -> None:
    """Digests and checksums are not looked at."""
    _replace(deciding, "_damage", lambda *_: None)
    _replace(checkpoint, "_verify", lambda *_: None)


def no_lock() -> None:
    """Anyone may work on a run."""

    @contextmanager
    def unlocked(run: RunDir) -> Iterator[OwnedRun]:
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        with run.lock.open("ab") as file:
            yield OwnedRun(run.root, run.checkpoints, file)

    _replace(dag, "owned", unlocked)


def no_thread() -> None:
    """SIGTERM takes effect where the process stands, be it in the middle of a step."""
    for module in (execution, training):
        _replace(module, "uninterrupted", lambda work: work(signals.StopRequest()))


def status_before_files() -> None:
    """A stage is called completed before its files are in place."""
    save, complete = checkpoint.save_network, StatusStore.complete
    waiting: list[Callable[[], Any]] = []

    def remember(path: Path, *arguments: Any, **options: Any) -> files.FileDigest:
        waiting.append(lambda: save(path, *arguments, **options))
        with tempfile.TemporaryDirectory() as elsewhere:
            return save(Path(elsewhere) / path.name, *arguments, **options)

    def complete_first(self: StatusStore, *arguments: Any, **options: Any) -> None:
        complete(self, *arguments, **options)
        for write in waiting:
            write()
        waiting.clear()

    _replace(training, "save_network", remember)
    _replace(StatusStore, "complete", complete_first)


def ambient_randomness() -> None:
    """Random numbers come from the process, not from (seed, stage, step)."""
    source = random.Random(os.getpid())
    for module in (loop, train_state):
        _replace(module, "derive_seed", lambda *_: source.getrandbits(63))


def any_origin() -> None:
    """What a stage learned from is compared with nothing."""
    for module in (snapshots, descent, lineage):
        _replace(module, "difference", lambda *_: None)


def any_state() -> None:
    """Whatever lies in the place of a saved state is resumed."""
    for module in (snapshots, train_state):
        _replace(module, "unusable", lambda *_: None)
    _replace(train_state, "_check", lambda *_: None)


def retrain_unasked() -> None:
    """Another seed or split throws completed work away without a flag."""
    _replace(deciding, "_require_same_origin", lambda spec, job, snapshot: changed_input(spec, job.cfg, snapshot))


def overwrite_unasked() -> None:
    """Checkpoints that no status names are overwritten."""
    _replace(deciding, "_require_permission", lambda *_: None)


def any_result() -> None:
    """An evaluation is believed whatever lies in its place."""
    decide = deciding._decide_evaluation

    def believe(name: str, job: Job, snapshot: Snapshot, usable: Any) -> EvaluationDecision:
        known = snapshot.status.evaluation(name).files or {}
        return decide(name, job, replace(snapshot, results={n: item.digest for n, item in known.items()}), usable)

    _replace(deciding, "_decide_evaluation", believe)


def any_data() -> None:
    """Data that were solved here are believed, whatever became of them."""
    _replace(datasets, "spoilt", lambda _path: None)


def silent_history() -> None:
    """A loss history that is not this run's is not told."""
    _replace(History, "strange", lambda *_: ())


def silent_raw_weights() -> None:
    """Raw weights that are damaged are not told."""
    _replace(deciding, "_spoilt_beside", lambda *_: None)


def every_file_needed() -> None:
    """A damaged record that the run can do without ends it."""
    read = jsonl.read
    _replace(jsonl, "read", lambda path, **_: read(path, optional=False))


def follow_links() -> None:
    """The lock is opened through a link, and what it leads to is overwritten."""
    _replace(locks, "open_lock", lambda path: os.open(path, os.O_RDWR | os.O_CREAT))
    _replace(locks, "_refuse_links", lambda _run: None)


def newest_state_only() -> None:
    """What stands in the place of a saved state and is none is left there."""
    _replace(locks, "set_aside", lambda _path: None)


def lost_rows() -> None:
    """What an earlier process could not send to W&B is not sent."""
    _replace(OnlineLogger, "catch_up", lambda _self: None)


def no_wishes() -> None:
    """What a person wishes of a run is not asked."""
    _replace(wishes, "refusal", lambda _attempt: None)
    _replace(chains, "end_if_cancelling", lambda: None)
    _replace(wishes.StateWatch, "__call__", lambda _self, *, saved: saved and False)


def engine_decides() -> None:
    """What Prefect's engine raises ends the work."""
    _replace(outcome.Engine, "run", lambda _self, coat, *arguments, plainly=None: coat(*arguments))


def one_at_a_time() -> None:
    """Deployments allow one run at a time, so that a run ends when it cannot renew its lease at the server."""
    put = deploying._put_deployment

    def limited(client: Any, deployment: Mapping[str, Any], known: Any) -> None:
        put(client, deployment, known)
        made = client.read_deployment_by_name(f"{deploying._flow_name(deployment)}/{deployment['name']}")
        client.update_deployment(made.id, DeploymentUpdate(concurrency_limit=1))

    _replace(deploying, "_put_deployment", limited)


def from_nothing() -> None:
    """An attempt that does not find the run's files begins from nothing."""
    _replace(earlier, "with_files", lambda job, _runs: job)


def default_signals() -> None:
    """What a batch system sends ends the process where it stands."""
    _replace(signals, "BATCH_SIGNALS", ())


def every_stage_needed() -> None:
    """A stage that fails takes with it what does not need it."""
    _replace(dag, "SPECS", {name: replace(spec, optional=False) for name, spec in SPECS.items()})


def impatient() -> None:
    """A run of a chain does not wait for another owner of the run, such as an attempt that was taken for dead."""
    _replace(dag, "OWNER_PATIENCE_S", 0.0)


def users_database() -> None:
    """The temporary Prefect server has the home and the database of the user."""

    @contextmanager
    def shared(_self: PrivateHome, *, keys: bool) -> Iterator[None]:
        yield

    _replace(PrivateHome, "used", shared)


def forced_again() -> None:
    """Every run of a chain trains again what --force-train names, whatever the one before it has done."""
    _replace(dag, "resumed_in_chain", lambda job, _forced_by, _chain_run: job)


def sum_over_processes() -> None:
    """Gradients are added up process by process, in whatever order the library has, not in the tree over shards."""

    def all_reduced(world: World, own: Sequence[Tensor], _total: int) -> Tensor:
        found = parallel.tree_sum(own) if is_power_of_two(len(own)) else torch.stack(list(own)).sum(0)
        if world.group is not None:
            dist.all_reduce(found, group=world.group)
        return found

    _replace(World, "sum_over_shards", all_reduced)


@dataclass(frozen=True)
class Mutation:
    """How a protection is switched off, and the part of the harness that has to notice."""

    switch_off: Callable[[], None]
    notice: Notice = by_kills


MUTATIONS = {
    "fsync and rename": Mutation(write_in_place),
    "EMA in the state": Mutation(forget_ema),
    "the step": Mutation(forget_step),
    "the digest check": Mutation(trust_every_file),
    "the lock": Mutation(no_lock),
    "the signal flag": Mutation(no_thread),
    "file before status": Mutation(status_before_files),
    "counter-based randomness": Mutation(ambient_randomness),
    "the origin of checkpoints": Mutation(any_origin, by_evaluating),
    "the origin of saved states": Mutation(any_state, by_mixing("half-way*seed: *resume/*")),
    "no work thrown away unasked": Mutation(retrain_unasked, by_mixing("*seed: all checkpoints and*")),
    "no overwriting without a status": Mutation(overwrite_unasked, by_damage("*stage_status.json: missing")),
    "the digests of results": Mutation(any_result, by_mixing("finished*: reports/*_eval.json")),
    "the digests of solved data": Mutation(any_data, by_damage("half-way*data/*.hdf5: flips")),
    "a lost loss history is told": Mutation(silent_history, by_damage("*metrics.jsonl: missing")),
    "lost raw weights are told": Mutation(silent_raw_weights, by_damage("finished*operator.pt: flip")),
    "a record costs itself": Mutation(every_file_needed, by_damage("*metrics.jsonl: folder")),
    "no link in the place of a lock": Mutation(follow_links, by_damage("*.owner: link")),
    "rows are caught up in W&B": Mutation(lost_rows, by_rows),
    "the engine's errors are not ours": Mutation(engine_decides, by_a_dying_server),
    "no attempt begins from nothing": Mutation(from_nothing, by_retries(retries.files_elsewhere)),
    "a person's wish": Mutation(no_wishes, by_cancels),
    "batch signals": Mutation(default_signals, by_batch_signals),
    "no lease at the server": Mutation(one_at_a_time, by_a_server_that_is_away),
    "a database of its own": Mutation(users_database, by_a_damaged_database),
    "trained again once in a chain": Mutation(forced_again, by_a_chain),
    "an optional stage": Mutation(every_stage_needed, by_a_failing_stage),
    "the tree over shards": Mutation(sum_over_processes, by_ranks),
    "a second owner waits": Mutation(impatient, by_retries(retries.called_crashed)),
    "what is no saved state makes way": Mutation(newest_state_only, by_damage("half-way*resume/*: folder")),
}


def _after_load(change: Callable[[TrainState], None]) -> None:
    load = train_state.load_state

    def load_and_change(path: Path, state: TrainState, *rest: Any) -> None:
        load(path, state, *rest)
        change(state)

    _replace(train_state, "load_state", load_and_change)


def _replace(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)


def main() -> int:
    """Switch each protection off in turn; 0 when the harness noticed every time."""
    parser = argparse.ArgumentParser(prog="harness.mutations", description=__doc__)
    parser.add_argument("--only", choices=list(MUTATIONS), help="this protection alone")
    parser.add_argument("--seed", type=int, default=0, help="seed of the kills")
    arguments = parser.parse_args()
    chosen = {name: one for name, one in MUTATIONS.items() if arguments.only in (None, name)}
    green = []
    with tempfile.TemporaryDirectory(prefix="mutations-") as directory:
        isolate(Path(directory))
        for number, (name, mutation) in enumerate(chosen.items()):
            scratch = Path(directory) / str(number)
            scratch.mkdir()
            trouble = mutation.notice(scratch, arguments.seed, mutation.switch_off)
            echo(f"{name:<36} {'red' if trouble else 'GREEN'}   {trouble[0] if trouble else 'nothing was noticed'}")
            if not trouble:
                green.append(name)
    echo(f"{len(chosen) - len(green)} of {len(chosen)} mutations noticed")
    return 1 if green else 0


if __name__ == "__main__":
    sys.exit(main())
