"""One line per epoch: losses, metrics, seconds, the best marked."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from lightning_finetune.run.trainer import loss_in, scalar_metrics
from lightning_finetune.show.epoch_lines import epoch_html, epoch_lines, running_html

_PAUSE = 0.5
"""Seconds between two showings of the progress in a cell."""


def in_cell() -> bool:
    """Whether the process is the kernel of a notebook."""
    return "ipykernel" in sys.modules


class EpochTable(Callback):
    """Show each epoch as a row when it ends: losses, metrics, minutes and seconds; the best so far is marked.

    In a notebook it is one table that grows, with the progress of the epoch below it; elsewhere it is one line per
    epoch, also if the output is piped. Epochs count from 1. A resumed run goes on with the rows that it had.

    Args:
        monitor: What decides which epoch is the best, as for ``best.ckpt``; without such a metric none is marked.
        mode: ``"min"`` if less of it is better, else ``"max"``.

    Attributes:
        rows: The epochs so far: ``epoch``, ``train_loss`` as the mean over its batches (of this process), metrics by
            name, ``seconds``. Of an epoch that a run was resumed in, loss and seconds are those since then.
    """

    def __init__(self, monitor: str = "val_loss", mode: str = "min") -> None:
        self.monitor, self.better = monitor, max if mode == "max" else min
        self.rows: list[dict[str, float]] = []
        self._begin, self._losses = 0.0, torch.zeros(2)
        self._shown = 0.0
        self._display: Any = None

    @property
    def best(self) -> int | None:
        """The place of the best row; None if no row has the metric."""
        places = [place for place, row in enumerate(self.rows) if self.monitor in row]
        return self.better(places, key=lambda place: self.rows[place][self.monitor], default=None)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            if trainer.global_step == 0:  # else a second `fit` goes on; those of a checkpoint are loaded after this
                self.rows = []
            self._display = None

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin = time.monotonic()
        self._losses = torch.zeros(2, device=pl_module.device)

    on_train_start = on_train_epoch_start  # of a run that is resumed within an epoch no start of the epoch is told

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (loss := loss_in(outputs)) is not None:
            # It stays on its device; Lightning divides it by the batches that are accumulated.
            self._losses += torch.stack([loss.detach() * trainer.accumulate_grad_batches, torch.ones_like(loss)])
        if in_cell() and trainer.is_global_zero and time.monotonic() - self._shown > _PAUSE:
            total = trainer.num_training_batches
            self._show_in_cell(running_html(trainer.current_epoch + 1, batch_idx + 1, total))

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        row = {"epoch": trainer.current_epoch + 1, **scalar_metrics(trainer)}
        total, batches = self._losses.tolist()
        if batches:
            row["train_loss"] = total / batches  # of all batches; what a module logs by step is that of the last
        self.rows.append({**row, "seconds": time.monotonic() - self._begin})
        if trainer.is_global_zero:
            self._show(trainer)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    @override
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.rows = list(state_dict["rows"])

    def _show(self, trainer: pl.Trainer) -> None:
        if in_cell():
            self._show_in_cell()
            return
        head, *lines = epoch_lines(self.rows, self.best)
        said = lines[-1] if len(lines) > 1 and self._display else f"{head}\n{lines[-1]}"
        self._display = True
        bar = trainer.progress_bar_callback
        print(said, flush=True) if bar is None else bar.print(said)  # noqa: T201

    def _show_in_cell(self, running: str = "") -> None:
        from IPython.display import HTML, display

        table = HTML(epoch_html(self.rows, self.best, running))  # type: ignore[no-untyped-call]  # IPython leaves them untyped
        if self._display is None:
            self._display = display(table, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._display.update(table)
        self._shown = time.monotonic()

    def _repr_html_(self) -> str:
        return epoch_html(self.rows, self.best)
