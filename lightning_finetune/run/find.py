"""How ``"find"`` in a phase becomes a rate, before the phase or in place of all training."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lightning_finetune.engine.param_groups import Layout
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.plan import Plan
from lightning_finetune.engine.range_test import ChosenRate, Curve, choose, rates_between, steps_of_test
from lightning_finetune.engine.rates import DEFAULT_LR, LR, UNFROZEN_LR, ends
from lightning_finetune.run.artifacts import keeps_files, run_dir, save_figure, save_table, shown
from lightning_finetune.run.phased_callback import PhasedCallback
from lightning_finetune.run.range_test_loop import run_range_test
from lightning_finetune.run.trainer import steps_of_epoch
from lightning_finetune.show import terminal

START_LR, END_LR = 1e-7, 10.0
"""fastai's range."""


def find_lr(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    plan: Plan,
    phase: int,
    layout: Layout,
    seed: int,
    rule: tuple[float, float] | None = None,
    solved: bool = False,
) -> ChosenRate:
    """Test rates before ``phase`` and decide its own, with each trained group at the same rate, as the lessons read it.

    Args:
        trainer: At the start of the phase's first epoch, its layers frozen and unfrozen.
        module: The trainer's module.
        plan: Of the run.
        phase: Whose ``lr`` holds ``"find"``.
        layout: Of the optimizer's parameter groups.
        seed: Of the run.
        rule: Rates that a recipe would take for unfrozen layers; see
            :func:`lightning_finetune.engine.range_test.choose`.
        solved: The head has just been solved.
    """
    trained = plan.trained(phase) or plan.num_groups
    frozen = 0 if plan.train_norm else plan.num_groups - trained
    scales = [float(layer is not None and layer >= frozen) for layer in layout.layers]
    rates = rates_between(START_LR, END_LR, default_steps(trainer))
    curve = run_range_test(trainer, module, rates, scales, seed, "range test")
    chosen = choose(plan.phases[phase].lr or DEFAULT_LR, curve, trained > plan.num_head, rule, solved)
    show_curve(trainer, curve, f"lr_range_phase_{phase + 1}", chosen.lr)
    return chosen


def default_steps(trainer: pl.Trainer) -> int:
    """How many steps a test makes if nobody says: few enough for the run's data, a hundred where it has no length."""
    return steps_of_test(steps_of_epoch(trainer, trainer.current_epoch) or math.inf)


def show_curve(trainer: pl.Trainer, curve: Curve, name: str, chosen: LR | None) -> None:
    """Draw the curve into the run's directory, and log it as a picture and as a table; on rank zero."""
    if not (trainer.is_global_zero and keeps_files(trainer)):
        return
    from lightning_finetune.show.figures.whole_run import draw_curve  # only now, as it loads matplotlib

    save_figure(trainer, name, draw_curve(curve, ends(chosen)))
    rows = zip(curve.lrs, curve.losses, curve.smoothed, strict=True)
    save_table(trainer, f"{name}_losses", ("lr", "loss", "smoothed"), list(rows))


class FindOnly(PhasedCallback):
    """Test rates once before training would begin, show what it suggests, and end the run without a step.

    Writes ``lr_range_phase_1.png`` and ``lr_find.json`` into the run's directory, if it keeps files.

    Args:
        unfrozen: Test with all layers training, as after an unfreezing; else with the head alone.
        lr: Given upper rate of the unfrozen slice; None is the lessons' tenth of 3e-3.
        rule: Rates that a recipe would take for unfrozen layers; see
            :func:`lightning_finetune.engine.range_test.choose`.

    Attributes:
        chosen: Curve, suggestions and what is chosen from them; None before the run.
    """

    def __init__(
        self, unfrozen: bool = False, lr: float | None = None, rule: tuple[float, float] | None = None
    ) -> None:
        super().__init__()
        self.unfrozen = unfrozen
        self.lr = UNFROZEN_LR if lr is None else lr
        self.rule = rule
        self.chosen: ChosenRate | None = None

    @override
    def phases(self, trainer: pl.Trainer) -> list[Phase]:
        return [Phase(None, "all", ("find", self.lr)) if self.unfrozen else Phase(None, "head", "find")]

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._enter(trainer)  # no epoch begins
        self.chosen = find_lr(trainer, pl_module, self.plan_of_run, 0, self.grouping.layout, self.seed or 0, self.rule)
        trainer.should_stop = True
        if trainer.is_global_zero and keeps_files(trainer):
            path = run_dir(trainer) / "lr_find.json"
            path.write_text(json.dumps({"unfrozen": self.unfrozen, **asdict(self.chosen)}, indent=1))
            terminal.show_suggestions(self.chosen)
            rank_zero_info(
                f"The curve is in {shown(path.with_name('lr_range_phase_1.png'))}, its numbers in {shown(path)}"
            )
