"""The four stages by name, in the order in which they train."""

from ups_models.stages import consistency_distill, diff_residual, operator, steady_prior
from ups_models.stages.stage import Stage

STAGES: dict[str, Stage] = {
    stage.name: stage for stage in (operator.STAGE, diff_residual.STAGE, consistency_distill.STAGE, steady_prior.STAGE)
}
