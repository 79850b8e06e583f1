"""The confusion matrix of the validation set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lightning_finetune.errors import FinetuneError
from lightning_finetune.run.artifacts import save_figure, save_table, shown_state
from lightning_finetune.run.phase_ends import ends_phase
from lightning_finetune.tasks import BaseTask
from lightning_finetune.tasks.measures.confusion import MATRIX, Counts


class LogConfusion(Callback):
    """Show which classes the model confuses, at the end of each phase, of the run and of ``validate``.

    Writes ``confusion.png`` and ``confusion.csv`` into the run's directory and gives both to the loggers: counts of
    true by predicted class over the whole validation set and all processes, of masks over pixels, of labels absent by
    present; of more than 100 labels there is no picture. Needs no further pass: it counts what validation computed.
    It works with the tasks of this package that have up to 1,000 classes; otherwise it says so once and shows nothing.
    """

    def __init__(self) -> None:
        self._counts: Counts | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        name = type(pl_module).__name__
        if not isinstance(pl_module, BaseTask):
            rank_zero_info(f"LogConfusion shows nothing: {name} is no task of lightning_finetune.")
        elif pl_module.confusion() is None:
            rank_zero_info(f"LogConfusion shows nothing: {name} tells no classes apart, or more than {MATRIX}.")

    @override
    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        wanted = trainer.state.fn != TrainerFn.FITTING or ends_phase(trainer)
        shown = isinstance(pl_module, BaseTask) and wanted and not trainer.sanity_checking
        self._counts = pl_module.confusion() if shown and isinstance(pl_module, BaseTask) else None
        if self._counts is not None:
            self._counts.to(pl_module.device)

    @override
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._counts is not None and isinstance(outputs, Mapping):
            self._counts.update(outputs["predictions"], outputs["target"])

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._counts is None or not isinstance(pl_module, BaseTask):
            return
        confusion, self._counts = self._counts.confusion(pl_module.classes), None
        if not trainer.is_global_zero:
            return
        save_table(trainer, "confusion", *confusion.table)
        try:
            panels = confusion.panels()
        except FinetuneError as error:
            rank_zero_info(f"LogConfusion: {error} See confusion.csv.")
            return
        from lightning_finetune.show.figures.confusion import draw_confusion  # only now, as it loads matplotlib

        save_figure(trainer, "confusion", draw_confusion(panels, f"Confusion {shown_state(trainer)}"))
