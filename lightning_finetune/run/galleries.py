"""The validation images that a report shows: a fixed sample, and those with the largest losses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn

from lightning_finetune.data.batches.data_module import ImageDataModule
from lightning_finetune.errors import DataError
from lightning_finetune.run.artifacts import shown_state
from lightning_finetune.run.phase_ends import ends_phase
from lightning_finetune.run.samples import ValidationSample
from lightning_finetune.run.top_losses import TopLosses, why_none
from lightning_finetune.show.report import Example, Gallery
from lightning_finetune.tasks.base import BaseTask

SAMPLE, SEED = 16, 42
"""As of ``LogPredictions``: the same images, where that is left at its defaults."""
TOP = 9
_NONE_YET = "No phase has ended with a validation."


class Galleries:
    """Collects while the model is validated; images are described at the end of each phase alone.

    What fails here, in a foreign module or in a loss that takes no single image, is told in its place and ends no run.

    Attributes:
        predictions: The fixed sample as the model saw it last.
        top_losses: The images that were worst then.
    """

    def __init__(self) -> None:
        self.predictions, self.top_losses = Gallery(note=_NONE_YET), Gallery(note=_NONE_YET)
        self._sample = ValidationSample(SAMPLE, SEED)
        self._worst: TopLosses | None = None
        self._fault = ""

    def begin(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """A validation starts."""
        self._sample.begin()
        self._fault = why_none(module, getattr(trainer, "datamodule", None))
        wanted = not trainer.sanity_checking and trainer.state.fn == TrainerFn.FITTING and ends_phase(trainer)
        self._worst = TopLosses(module, TOP) if wanted and not self._fault and isinstance(module, BaseTask) else None

    def take(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, dataloader_idx: int
    ) -> None:
        """A batch was validated."""
        with suppress(DataError):  # the sample keeps it
            self._sample.take(trainer, module, batch, dataloader_idx)
        if self._worst is not None and not dataloader_idx and not self._fault:
            try:
                self._worst.update(outputs, batch)
            except Exception as error:
                self._fault = f"Losses of single images cannot be known: {type(error).__name__}: {error}"

    def end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """A validation has ended; every process must say so."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        self._sample.end()
        worst = [] if self._worst is None else self._worst.gather(trainer)
        if trainer.is_global_zero and ends_phase(trainer):
            when = shown_state(trainer)
            self.predictions = _asked(
                lambda: self._sampled(trainer, module),
                f"The same validation images each time, as the model saw them {when}.",
            )
            self.top_losses = _asked(
                lambda: self._largest(trainer, worst),
                f"The validation images with the largest losses {when}, the largest first.",
            )

    def _sampled(self, trainer: pl.Trainer, module: pl.LightningModule) -> Gallery:
        shown, classes = self._sample.describe(trainer, module)
        return Gallery([Example(item) for item in shown], classes, "" if shown else self._sample.missing)

    def _largest(self, trainer: pl.Trainer, worst: list[tuple[int, float]]) -> Gallery:
        data = getattr(trainer, "datamodule", None)
        if self._fault or self._worst is None or not isinstance(data, ImageDataModule):
            return Gallery(note=self._fault)
        if not worst:
            return Gallery(note="No loss of an image was finite.")
        return Gallery(*self._worst.describe(trainer, data, worst))


def _asked(ask: Callable[[], Gallery], note: str) -> Gallery:
    """What there is to see under ``note``, or why there is nothing."""
    try:
        gallery = ask()
    except Exception as error:
        return Gallery(note=f"They cannot be shown: {type(error).__name__}: {error}")
    return replace(gallery, note=gallery.note or note)
