"""The progress of a run of the command: a line that moves on a terminal, a line per minute elsewhere."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import lightning.pytorch as pl
import rich
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from typing_extensions import override

from lightning_finetune.run.trainer import loss_in, max_epochs

SECONDS = 60.0
"""Between two lines where the output is no terminal, beside the line of each epoch."""

_MOVES = 0.25
"""Seconds between two moves of the line."""

_READS = 0.25
"""Seconds between two readings of the loss, for each of which a GPU is waited for."""


class ProgressLine(ProgressBar):
    """Shows the epoch, its batches, time and loss; epochs count from 1. What others print appears above it.

    Attributes:
        reads_loss: That the task need not log the loss for a bar, for which Lightning would read it in every step.
    """

    reads_loss = True

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._live: Progress | None = None
        self._stage, self._loss = "", ""
        self._told = self._read = self._moved = time.monotonic()

    @override
    def enable(self) -> None:
        self._enabled = True

    @override
    def disable(self) -> None:
        self._enabled = False
        self._stop()

    @override
    def print(self, *args: Any, **kwargs: Any) -> None:
        print(*args, **kwargs, flush=True)  # noqa: T201  # the line on the terminal redirects it
        self._told = time.monotonic()

    # -- stages ----------------------------------------------------------------------------------------------------

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.monotonic() - self._read > _READS:
            loss = loss_in(outputs)
            self._loss = "" if loss is None else f"loss {float(loss) * trainer.accumulate_grad_batches:.4f}"
            self._read = time.monotonic()
        most = max_epochs(trainer)
        epoch = f"epoch {trainer.current_epoch + 1}" + (f" of {most}" if most else "")
        self._show(epoch, batch_idx + 1, self.total_train_batches)

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
        self.has_dataloader_changed(dataloader_idx)  # which tells the base class whose batches are counted
        if not trainer.sanity_checking:
            self._show("validation", batch_idx + 1, self.total_val_batches_current_dataloader)

    @override
    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.has_dataloader_changed(dataloader_idx)
        self._show("test", batch_idx + 1, self.total_test_batches_current_dataloader)

    @override
    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.has_dataloader_changed(dataloader_idx)
        self._show("prediction", batch_idx + 1, self.total_predict_batches_current_dataloader)

    def _stop(self, *_: Any, **__: Any) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    on_train_end = on_exception = teardown = _stop

    # -- the line --------------------------------------------------------------------------------------------------

    def _show(self, stage: str, done: int, total: float) -> None:
        if not self._enabled:
            return
        if sys.stdout.isatty():
            self._move(stage, done, None if total == math.inf else total)
        elif time.monotonic() - self._told > SECONDS:
            of = "" if total == math.inf else f" of {total:.0f}"
            self.print(f"{stage}: {done}{of} batches  {self._loss}".rstrip())

    def _move(self, stage: str, done: int, total: float | None) -> None:
        if self._live is None:
            self._live, self._stage = _line(), ""
            self._live.start()
        if stage != self._stage:
            for task in self._live.task_ids:
                self._live.remove_task(task)
            self._live.add_task(stage, total=total, loss=self._loss)
            self._stage = stage
        is_due = time.monotonic() - self._moved > _MOVES or done == total
        self._moved = time.monotonic() if is_due else self._moved
        self._live.update(self._live.task_ids[0], completed=done, total=total, loss=self._loss, refresh=is_due)


def _line() -> Progress:
    """Moved by this thread alone.

    A worker process that is forked while a thread of rich's holds the lock of the terminal would wait for that lock for
    ever at its first word, and the run for the worker.
    """
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(
        TextColumn("{task.description}"),
        *columns,
        TextColumn("{task.fields[loss]}"),
        console=rich.get_console(),
        transient=True,
        auto_refresh=False,
    )
