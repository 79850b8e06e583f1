"""The confusion matrix of the validation set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lightning_finetune.run.artifacts import save_figure, save_table
from lightning_finetune.run.phase_ends import ends_phase
from lightning_finetune.tasks import BaseTask
from lightning_finetune.tasks.measures.confusion import Confusion, Counts, Pairs, drawable

MOST = 1000
"""Rows of a table of pairs."""


class LogConfusion(Callback):
    """Show which classes are taken for which, at the end of each phase, of the run and of ``validate``.

    Writes ``confusion.png`` and ``confusion.csv`` into the run's directory and gives both to the loggers: counts of
    true by predicted class over the whole validation set and all processes, of masks over pixels, of labels absent by
    present. Of more than 1,000 classes the table holds the most confused pairs in place of the matrix; of those and of
    more than 100 labels there is no picture. Costs no further pass: it counts what validation computed. For the tasks
    of this package; with other modules it says so once and shows nothing.
    """

    def __init__(self) -> None:
        self._counts: Confusion | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if not isinstance(pl_module, BaseTask):
            rank_zero_info(f"LogConfusion shows nothing: {type(pl_module).__name__} is no task of lightning_finetune.")

    @override
    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
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
        if not trainer.is_global_zero:
            return
        classes: list[str] = pl_module.classes  # type: ignore[assignment]
        save_table(trainer, "confusion", *_table(counts, classes))
        if drawable(counts):
            from lightning_finetune.show.figures import draw_confusion  # only now, as it loads matplotlib

            save_figure(trainer, "confusion", draw_confusion(counts, classes))
        else:
            rank_zero_info(f"LogConfusion: {len(classes)} classes are too many for a picture; see confusion.csv.")


def _table(counts: Counts, classes: Sequence[str]) -> tuple[Sequence[str], list[list[object]]]:
    """Columns and rows: a matrix, the four counts of each label, or the most confused pairs."""
    if isinstance(counts, Pairs):
        pairs = np.stack(counts.confused(), axis=1)[:MOST].tolist()
        return ("actual", "predicted", "count"), [
            [classes[true], classes[found], count] for true, found, count in pairs
        ]
    rows: list[list[object]] = [[name, *row.flatten().tolist()] for name, row in zip(classes, counts, strict=True)]
    if counts.ndim == 3:
        return ("label", "true absent", "false present", "missed", "true present"), rows
    return ("actual \\ predicted", *classes), rows
