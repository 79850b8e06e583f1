"""The two checkpoints of a run: the best and the last."""

from __future__ import annotations

from typing import Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from typing_extensions import override


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint`` for one ``best.ckpt``; a module that does not log ``monitor`` has none.

    Args:
        monitor: What decides which epoch was the best.
        mode: Whether less or more of it is better.
    """

    def __init__(self, monitor: str = "val_loss", mode: Literal["min", "max"] = "min") -> None:
        super().__init__(filename="best", monitor=monitor, mode=mode, save_on_train_epoch_end=True)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)


class LastCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint`` for one ``last.ckpt`` after each epoch, from which a run resumes.

    Args:
        every_n_train_steps: Save this often instead, in optimizer steps; for epochs that take long.
    """

    def __init__(self, every_n_train_steps: int | None = None) -> None:
        at_epoch_end = True if every_n_train_steps is None else None
        super().__init__(filename="last", every_n_train_steps=every_n_train_steps, save_on_train_epoch_end=at_epoch_end)
