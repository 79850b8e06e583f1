"""A run that ends before its last phase says so: before it starts, where it can be foreseen, and when it happened."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_warn

from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.plan import Plan
from lightning_finetune.run.either_lightning import is_a
from lightning_finetune.run.trainer import callbacks, is_dev_run


def warn_of_early_stopping(trainer: pl.Trainer, phases: Sequence[Phase]) -> None:
    """Warn of each ``EarlyStopping`` whose patience can run out before the last of ``phases`` begins."""
    last = sum(phase.epochs or 0 for phase in phases[:-1])
    if is_dev_run(trainer) or (trainer.min_epochs or 0) > last:
        return
    for callback in callbacks(trainer):
        if is_a(callback, EarlyStopping) and callback.patience < last:
            rank_zero_warn(
                f"EarlyStopping(patience={callback.patience}) can end the run before the last phase "
                f"begins at epoch {last + 1}. Raise `patience`, or set Trainer(min_epochs={last + 1})."
            )


def warn_of_early_end(trainer: pl.Trainer, plan: Plan) -> None:
    """Warn that the run, which has ended, was stopped before its last phase, or before a cycle came to its end."""
    phase = plan.phase_of(max(trainer.current_epoch - 1, 0))
    is_cut = phase < len(plan.phases) - 1 or plan.phases[phase].schedule != "constant"
    if trainer.should_stop and is_cut and trainer.global_step < len(plan):
        rank_zero_warn(
            f"The run was stopped after epoch {trainer.current_epoch}, in phase {phase + 1} of "
            f"{len(plan.phases)}: {len(plan) - trainer.global_step} of {len(plan)} planned steps were not made."
        )
