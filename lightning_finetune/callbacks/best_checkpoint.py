"""The checkpoint of the epoch that was the best."""

from __future__ import annotations

from typing import Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from typing_extensions import override

from lightning_finetune.engine.argument_types import check_types, warn_of_mode
from lightning_finetune.run.checkpoint_file import write_safely


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint`` for one ``best.ckpt``; a module that does not log ``monitor`` has none.

    Args:
        monitor: What decides which epoch was the best.
        mode: Whether less or more of it is better.
    """

    def __init__(self, monitor: str = "val_loss", mode: Literal["min", "max"] = "min") -> None:
        check_types(BestCheckpoint.__init__, locals())
        warn_of_mode("BestCheckpoint", monitor, mode)
        super().__init__(filename="best", monitor=monitor, mode=mode, save_on_train_epoch_end=True)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        write_safely(trainer)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)
