"""How ``"find"`` in a phase becomes a rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import lightning.pytorch as pl

from lightning_finetune.engine.param_groups import Layout
from lightning_finetune.engine.phases import DEFAULT_LR, LR
from lightning_finetune.engine.plan import Plan
from lightning_finetune.engine.range_test import Curve, Found, choose, suggest, sweep_rates
from lightning_finetune.run.artifacts import save_figure, save_table
from lightning_finetune.run.range_test_loop import run_sweep

RATES = sweep_rates(1e-7, 10.0, 100)
"""fastai's range and number of steps."""


def find_lr(
    trainer: pl.Trainer, module: pl.LightningModule, plan: Plan, phase: int, layout: Layout, seed: int
) -> Found:
    """Sweep before ``phase`` and decide its rate, with every trained group at the same rate, as the lessons read it.

    Args:
        trainer: At the start of the phase's first epoch, its layers frozen and unfrozen.
        module: The trainer's module.
        plan: Of the run.
        phase: Whose ``lr`` holds ``"find"``.
        layout: Of the optimizer's parameter groups.
        seed: Of the run.
    """
    trained = plan.trained(phase) or plan.num_groups
    frozen = 0 if plan.train_norm else plan.num_groups - trained
    scales = [float(layer is not None and layer >= frozen) for layer in layout.layers]
    curve = run_sweep(trainer, module, RATES, scales, seed)
    curve = replace(curve, suggestions=suggest(curve, len(RATES)))
    found = choose(plan.phases[phase].lr or DEFAULT_LR, curve, unfrozen=trained > plan.num_head)
    show_curve(trainer, curve, f"lr_range_phase_{phase + 1}", found.lr)
    return found


def show_curve(trainer: pl.Trainer, curve: Curve, name: str, chosen: LR | None) -> None:
    """Draw the curve into the run's directory, and log it as a picture and as a table; on rank zero."""
    if not trainer.is_global_zero:
        return
    from lightning_finetune.show.figures.range_test import draw_curve  # only now, as it loads matplotlib

    save_figure(trainer, name, draw_curve(curve, _span(chosen)))
    rows = zip(curve.lrs, curve.losses, curve.smoothed, strict=True)
    save_table(trainer, f"{name}_losses", ("lr", "loss", "smoothed"), list(rows))


def _span(chosen: LR | None) -> Sequence[float]:
    values = chosen if isinstance(chosen, (tuple, list)) else (chosen,)
    return [value for value in values if isinstance(value, (int, float))]
