"""What a run of the command trains on, said once before it begins."""

from __future__ import annotations

import lightning.pytorch as pl
import rich
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lightning_finetune.data.batches.data_module import ImageDataModule
from lightning_finetune.errors import DataError

NAMED = 20
"""Classes that are listed by name."""

COMPARED = 20_000
"""Images that are looked through for those of equal content: seconds."""


class SayData(Callback):
    """Prints counts, classes, sizes and warnings of an ImageData when its files have been read."""

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        data = getattr(trainer, "datamodule", None)
        if stage == "fit" and trainer.is_global_zero and isinstance(data, ImageDataModule):
            try:
                summary = data.summary(compare=len(data.splits) <= COMPARED)
            except DataError as error:  # of images that this stage does not use
                rank_zero_warn(f"The data cannot be summed up: {error}")
                return
            rich.get_console().print(f"Data: {summary.text(NAMED)}", markup=False, highlight=False, soft_wrap=True)
