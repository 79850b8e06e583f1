"""Reading and scaling the learning rates that an optimizer, and the module's own scheduler, hold."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch.optim import Optimizer

from lightning_finetune.engine.param_groups import own_rates, set_rate
from lightning_finetune.run.trainer import chained

_PEAKS = ("initial_lr", "max_lr", "min_lr")


def ratios(optimizer: Optimizer) -> list[float]:
    """Each parameter group's rate over the highest; all alike where the optimizer finds its own."""
    lrs = [float(group["lr"] or 0.0) for group in optimizer.param_groups]
    top = max(lrs)
    return [lr / top for lr in lrs] if top > 0 else [1.0] * len(lrs)


def scale_rates(trainer: pl.Trainer, lr: float) -> None:
    """Set the highest rate of the run to ``lr`` and keep the ratios, through the module's scheduler where it has one.

    Args:
        trainer: With one optimizer.
        lr: For the peak of the schedule, or without one for the rate itself.
    """
    optimizer = trainer.optimizers[0]
    own_rates(optimizer)
    groups: list[dict[str, Any]] = optimizer.param_groups
    peak = max(max(float(group.get(key, 0.0)) for key in ("lr", *_PEAKS)) for group in groups)
    factor = lr / peak if peak > 0 else 1.0
    for group in groups:
        set_rate(group, group["lr"] * factor)
        for key in _PEAKS:
            if key in group:
                group[key] = group[key].mul_(factor) if hasattr(group[key], "mul_") else group[key] * factor
    for config in trainer.lr_scheduler_configs:
        for scheduler in chained(config.scheduler):
            if hasattr(scheduler, "base_lrs"):
                scheduler.base_lrs = [base * factor for base in scheduler.base_lrs]
