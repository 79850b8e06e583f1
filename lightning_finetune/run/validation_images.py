"""What callbacks share that look at a few validation images, with what the model says of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from lightning_finetune.run.samples import ValidationSample
from lightning_finetune.show.figures.content import Shown


class LookingCallback(Callback):
    """Keeps the same few images of each validation, and hands them to :meth:`show` when one has ended.

    Args:
        num: How many images.
        seed: Of their choice among the validation images of the first process.
    """

    def __init__(self, num: int, seed: int) -> None:
        self._sample = ValidationSample(num, seed)

    def show(self, trainer: pl.Trainer, shown: Sequence[Shown], classes: Sequence[str]) -> None:
        """What to do with the images; there are none on another process than the first."""
        raise NotImplementedError

    def is_wanted(self, trainer: pl.Trainer) -> bool:
        """Whether a validation that has ended is to be shown."""
        return True

    def complaining(self) -> AbstractContextManager[None]:
        """What becomes of the ``DataError`` of a module that cannot be asked; it is raised if nothing is said."""
        return nullcontext()

    @override
    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._sample.begin()

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
        with self.complaining():
            self._sample.take(trainer, pl_module, batch, dataloader_idx)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._sample.end()
        if self.is_wanted(trainer):
            with self.complaining():
                shown, classes = self._sample.describe(trainer, pl_module)
                if shown:
                    self.show(trainer, shown, classes)
