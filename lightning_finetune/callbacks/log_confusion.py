"""The confusion matrix of the validation set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lightning_finetune.callbacks._figures import save_figure, save_table
from lightning_finetune.callbacks._phase_ends import ends_phase

if TYPE_CHECKING:
    from lightning_finetune.tasks.confusion import Confusion


class LogConfusion(Callback):
    """Show which classes are taken for which, at the end of each phase, of the run and of ``validate``.

    Writes ``confusion.png`` and ``confusion.csv`` into the run's directory and gives both to the loggers: counts of
    true by predicted class over the whole validation set and all processes, of masks over pixels, of labels absent by
    present. Costs no further pass: it counts what validation computed. For the tasks of this package; with other
    modules it says so once and shows nothing.
    """

    def __init__(self) -> None:
        self._counts: Confusion | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        from lightning_finetune.tasks import BaseTask

        if not isinstance(pl_module, BaseTask):
            rank_zero_info(f"LogConfusion shows nothing: {type(pl_module).__name__} is no task of lightning_finetune.")

    @override
    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        from lightning_finetune.tasks import BaseTask
        from lightning_finetune.tasks.confusion import Confusion

        wanted = trainer.state.fn != TrainerFn.FITTING or ends_phase(trainer)
        shown = isinstance(pl_module, BaseTask) and wanted and not trainer.sanity_checking
        self._counts = Confusion(pl_module) if shown and isinstance(pl_module, BaseTask) else None

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
            self._counts.update(outputs["probabilities"], outputs["target"])

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._counts is None:
            return
        counts, self._counts = self._counts.compute(), None
        if trainer.is_global_zero:
            from lightning_finetune.pictures import draw_confusion

            classes: list[str] = pl_module.classes  # type: ignore[assignment]
            save_figure(trainer, "confusion", draw_confusion(counts.numpy(), classes))
            if counts.ndim == 3:
                cells = ("true absent", "false present", "missed", "true present")
                rows = [[name, *table.flatten().tolist()] for name, table in zip(classes, counts, strict=True)]
                save_table(trainer, "confusion", ("label", *cells), rows)
            else:
                rows = [[name, *row.tolist()] for name, row in zip(classes, counts, strict=True)]
                save_table(trainer, "confusion", ("actual \\ predicted", *classes), rows)
