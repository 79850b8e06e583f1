"""The range test by itself, in place of training."""

from __future__ import annotations

import json
from dataclasses import asdict

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.range_test import ChosenRate
from lightning_finetune.engine.rates import UNFROZEN_LR
from lightning_finetune.run.find import find_lr
from lightning_finetune.run.folder import keeps_files, run_dir, shown
from lightning_finetune.run.phased_callback import PhasedCallback
from lightning_finetune.show import terminal


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
        self.chosen = find_lr(trainer, pl_module, self.plan_of_run, 0, self.grouping.layout, self.seed or 0, self.rule)
        trainer.should_stop = True
        if trainer.is_global_zero and keeps_files(trainer):
            path = run_dir(trainer) / "lr_find.json"
            path.write_text(json.dumps({"unfrozen": self.unfrozen, **asdict(self.chosen)}, indent=1))
            terminal.show_suggestions(self.chosen)
            rank_zero_info(
                f"The curve is in {shown(path.with_name('lr_range_phase_1.png'))}, its numbers in {shown(path)}"
            )

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ending without a step is what was asked for; there is nothing to warn of."""
