"""The validation images that a report shows: a fixed sample, and those with the largest losses."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn

from lightning_finetune.callbacks._phase_ends import ends_phase
from lightning_finetune.callbacks._samples import ValidationSample
from lightning_finetune.callbacks._top_losses import TopLosses, why_none
from lightning_finetune.data.data_module import ImageDataModule
from lightning_finetune.errors import DataError
from lightning_finetune.report import Example, Gallery
from lightning_finetune.tasks.base import BaseTask

SAMPLE, SEED = 16, 42
"""As of ``LogPredictions``: the same images, where that is left at its defaults."""
TOP = 9
_NONE_YET = "No phase has ended with a validation."


class Galleries:
    """Collects while the model is validated; images are described at the end of each phase alone.

    Attributes:
        predictions: The fixed sample as the model saw it last.
        top_losses: The images that were worst then.
    """

    def __init__(self) -> None:
        self.predictions, self.top_losses = Gallery(note=_NONE_YET), Gallery(note=_NONE_YET)
        self._sample = ValidationSample(SAMPLE, SEED)
        self._worst: TopLosses | None = None

    def begin(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """A validation starts."""
        self._sample.begin()
        why = why_none(module, getattr(trainer, "datamodule", None))
        if why:
            self.top_losses = Gallery(note=why)
        wanted = not trainer.sanity_checking and trainer.state.fn == TrainerFn.FITTING and ends_phase(trainer)
        self._worst = TopLosses(module, TOP) if wanted and not why and isinstance(module, BaseTask) else None

    def take(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, dataloader_idx: int
    ) -> None:
        """A batch was validated."""
        with suppress(DataError):  # kept, and told in its place
            self._sample.take(trainer, module, batch, dataloader_idx)
        if self._worst is not None and isinstance(outputs, Mapping) and not dataloader_idx:
            self._worst.update(outputs, batch)

    def end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """A validation has ended; every process must say so."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        self._sample.end()
        worst = [] if self._worst is None else self._worst.gather(trainer)
        if trainer.is_global_zero and ends_phase(trainer):
            self._describe(trainer, module, worst)

    def _describe(self, trainer: pl.Trainer, module: pl.LightningModule, worst: list[tuple[int, float]]) -> None:
        when = f"after epoch {trainer.current_epoch}"
        note = f"The same validation images each time, as the model saw them {when}."
        try:
            shown, classes = self._sample.describe(trainer, module)
        except DataError:
            shown, classes = [], []
        note = note if shown else f"There are none to show: {self._sample.missing}"
        self.predictions = Gallery([Example(item) for item in shown], classes, note)
        data = getattr(trainer, "datamodule", None)
        if self._worst is not None and isinstance(data, ImageDataModule):
            examples, classes = self._worst.describe(trainer, data, worst) if worst else ([], [])
            note = f"The validation images with the largest losses {when}, the largest first."
            self.top_losses = Gallery(examples, classes, note if worst else "No loss of an image was finite.")
