"""The plan by itself: what the command ``lightning-finetune plan`` shows instead of training."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lightning_finetune.engine.phases import Phase
from lightning_finetune.run.folder import run_dir, shown
from lightning_finetune.run.phased_callback import PhasedCallback
from lightning_finetune.show import terminal
from lightning_finetune.show.shown_plan import bands_of


class PlanOnly(PhasedCallback):
    """Resolve the phases of a run with its model and data, show them, and end the run without a step.

    Writes ``plan.png`` into the run's directory: rates and momentum of every step.

    Args:
        phases: The phases; where a rate is left to the range test, the lessons' rate is shown.
    """

    def __init__(self, phases: Sequence[Phase]) -> None:
        super().__init__()
        self.given = list(phases)

    @override
    def phases(self, trainer: pl.Trainer) -> list[Phase]:
        return self.given

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        trainer.should_stop = True
        if trainer.is_global_zero:
            from lightning_finetune.show.figures.saving import save
            from lightning_finetune.show.figures.whole_run import draw_plan  # only now, as it loads matplotlib

            plan, names = self.plan_of_run, self.grouping.names
            terminal.show_plan(plan, names)
            path = run_dir(trainer) / "plan.png"
            save(draw_plan(plan, names, bands_of(plan)), path, 110)
            rank_zero_info(f"Its rates step by step are in {shown(path)}")

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ending without a step is what was asked for; there is nothing to warn of."""
