"""What a run's weights were trained with and from, by what their checkpoints say."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from tasks.services.stages.snapshot import inputs_now
from ups_models.config.schema import PipelineConfig
from ups_models.errors import CheckpointError
from ups_models.files import known_digest
from ups_models.stages.lineage import Lineage, difference, in_words, read_lineage
from ups_models.stages.spec import SPECS


def trained_config(cfg: PipelineConfig, lineages: Mapping[str, Lineage]) -> PipelineConfig:
    """`cfg` with the settings that each completed stage was trained with, as far as its checkpoint names them.

    A report shows these: what the config says by now may be another thing.
    """
    trained = {}
    for name, lineage in lineages.items():
        try:
            trained[name] = type(cfg.stages.of(name)).model_validate(lineage.settings)
        except ValidationError:  # of a later version, with settings that are not known here
            continue
    return cfg.model_copy(update={"stages": cfg.stages.model_copy(update=trained)})


def require_one_origin(
    cfg: PipelineConfig, files: Mapping[str, Path], data: Mapping[bool, Sequence[str]] | None
) -> dict[str, Lineage]:
    """The lineages of checkpoint files by stage, as far as they have one.

    Raises CheckpointError where one was trained from another checkpoint than the one given here, or, where they are
    evaluated on the config's own `data`, from another seed, split or data.
    """
    digests = {SPECS[stage].checkpoint: known_digest(path) for stage, path in files.items() if path.is_file()}
    found = {}
    for stage, path in files.items():
        lineage = read_lineage(path) if path.is_file() else None
        if lineage is None:
            continue
        if lineage.stage != stage:
            raise CheckpointError(f"{path}: is a checkpoint of stage {lineage.stage}, not of {stage}")
        spec = SPECS[stage]
        now = {name: digests[name].sha256 for name in digests if name in lineage.inputs}
        if data is not None:
            now |= inputs_now(spec, cfg, digests, data[spec.steady])
        other = difference(spec, cfg, lineage.inputs, now)
        if other is not None:
            raise CheckpointError(
                f"{path}: was trained with {in_words(other)} than what is given here; name the checkpoints of one run, "
                "with the config that they were trained with, or evaluate on a file of its own with --data"
            )
        found[stage] = lineage
    return found
