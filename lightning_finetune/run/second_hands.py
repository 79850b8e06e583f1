"""Who else would freeze layers, set the learning rates of a run or end it: named, refused, or taken over on request."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import BaseFinetuning, EarlyStopping, LearningRateFinder, StochasticWeightAveraging
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.optim import Optimizer

from lightning_finetune.engine.param_groups import set_rate
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.plan import Plan
from lightning_finetune.engine.rates import DEFAULT_LR
from lightning_finetune.errors import PhaseError, UnsupportedError
from lightning_finetune.run.either_lightning import is_a
from lightning_finetune.run.trainer import callbacks, is_dev_run

Scheduler = Literal["refuse", "replace"]
"""What a callback that sets the rates does with a scheduler that the module returns."""


def refuse_finetuning(trainer: pl.Trainer, name: str) -> None:
    """Refuse Lightning's own way to freeze, which adds parameter groups as it goes.

    Raises:
        PhaseError: Names the callback.
    """
    for other in callbacks(trainer):
        if is_a(other, BaseFinetuning):
            raise PhaseError(
                f"{name} and {type(other).__name__} both freeze layers, or set their learning rates. Drop one of them."
            )


def sets_rates(trainer: pl.Trainer) -> str | None:
    """The name of a callback of Lightning's that sets the learning rates, if the run has one."""
    kinds = (StochasticWeightAveraging, LearningRateFinder)
    return next((type(one).__name__ for one in callbacks(trainer) if any(is_a(one, kind) for kind in kinds)), None)


def be_the_only_hand(trainer: pl.Trainer, optimizer: Optimizer, name: str, scheduler: Scheduler) -> None:
    """See to it that nothing but the callback ``name`` sets the learning rates of ``optimizer``.

    Args:
        trainer: Of a fit that has begun.
        optimizer: Of the run.
        name: Of the callback.
        scheduler: ``"replace"`` takes the place of a scheduler that the module returns.

    Raises:
        PhaseError: Another callback sets them.
        UnsupportedError: The module returns a scheduler, which is not to be replaced; or the optimizer has no rate.
    """
    if other := sets_rates(trainer):
        raise PhaseError(f"{name} and {other} both set the learning rates. Drop one of them.")
    _take_schedulers(trainer, optimizer, name, scheduler)
    refuse_without_rate(optimizer, name)
    own = [f"{rate:g}" for rate in rates_of(optimizer) if rate not in (None, DEFAULT_LR)]
    if own:
        rank_zero_info(f"{name} sets the learning rates; that of the optimizer, {', '.join(own)}, does nothing.")


def refuse_without_rate(optimizer: Optimizer, name: str) -> None:
    """Refuse an optimizer that finds its rate itself.

    Raises:
        UnsupportedError: Names it.
    """
    if any(group.get("lr") is None for group in optimizer.param_groups):
        raise UnsupportedError(
            f"{name} sets the learning rates, but {type(optimizer).__name__} has none (lr=None): it finds its own. "
            f"Give it a rate (transformers' Adafactor also relative_step=False), or drop {name}."
        )


def _take_schedulers(trainer: pl.Trainer, optimizer: Optimizer, name: str, scheduler: Scheduler) -> None:
    schedulers = ", ".join(type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs)
    if not schedulers:
        return
    where = f"`configure_optimizers` of {type(trainer.lightning_module).__name__}"
    if scheduler != "replace":
        raise UnsupportedError(
            f"{name} sets the learning rates, and {where} also returns {schedulers}. Take its place by "
            f'{name}(scheduler="replace"), return the optimizer alone, or drop {name}.'
        )
    trainer.strategy.lr_scheduler_configs = []
    for group in optimizer.param_groups:  # a scheduler that warms up has already changed them
        set_rate(group, group.get("initial_lr", group["lr"]))
    rank_zero_info(f"{name} takes the place of {schedulers}, which {where} returns.")


def rates_of(optimizer: Optimizer) -> Collection[float | None]:
    """The different rates that the groups of ``optimizer`` have; None where one finds its own."""
    lrs = [group.get("lr") for group in optimizer.param_groups]
    return {None if lr is None else float(lr) for lr in lrs}


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
    """Warn that the run, which has made steps, was stopped before its last phase, or before a cycle came to its end."""
    phase = plan.phase_of(max(trainer.current_epoch - 1, 0))
    is_cut = phase < len(plan.phases) - 1 or plan.phases[phase].schedule != "constant"
    if trainer.should_stop and is_cut and 0 < trainer.global_step < len(plan):
        rank_zero_warn(
            f"The run was stopped after epoch {trainer.current_epoch}, in phase {phase + 1} of "
            f"{len(plan.phases)}: {len(plan) - trainer.global_step} of {len(plan)} planned steps were not made."
        )
