"""The validation images that a report shows: a fixed sample, and those with the largest losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lightning_finetune.data.batches.data_module import ImageDataModule
from lightning_finetune.data.batches.dataset import BatchKey
from lightning_finetune.data.block.splits import Split
from lightning_finetune.errors import DataError
from lightning_finetune.run.artifacts import shown_state
from lightning_finetune.run.describe import describe
from lightning_finetune.run.phase_ends import ends_phase
from lightning_finetune.run.trainer import to_device
from lightning_finetune.run.validation_images import ValidationSample
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


class TopLosses:
    """Keeps the largest losses of single images, and which images they are; the images are read again to be shown.

    Args:
        task: Whose loss it is; a loss is that of a batch of the one image.
        num: How many to keep.
    """

    def __init__(self, task: BaseTask, num: int) -> None:
        self.task, self.num = task, num
        self._losses = torch.full((num,), -math.inf, device=task.device)
        self._places = torch.full((num,), -1, device=task.device)

    def update(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> None:
        """Take a validation batch into account; does not wait for the device.

        Args:
            outputs: Of the task's ``validation_step``.
            batch: With the place of each image in the validation set under ``index``.
        """
        losses = self.task.losses(outputs["logits"], outputs["target"])
        losses = losses.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        losses = torch.cat([self._losses, losses])
        self._losses, kept = losses.topk(self.num)
        self._places = torch.cat([self._places, batch["index"].to(self._places.device)])[kept]

    def gather(self, trainer: pl.Trainer) -> list[tuple[int, float]]:
        """Places and losses over all processes, the largest first; every process must ask."""
        losses = trainer.strategy.all_gather(self._losses).flatten().tolist()
        places = trainer.strategy.all_gather(self._places).flatten().tolist()
        by_place = {place: loss for place, loss in zip(places, losses, strict=True) if place >= 0 and loss > -math.inf}
        return sorted(by_place.items(), key=lambda pair: -pair[1])[: self.num]

    def describe(
        self, trainer: pl.Trainer, data: ImageDataModule, worst: list[tuple[int, float]]
    ) -> tuple[list[Example], list[str]]:
        """The images with truth, prediction, loss and file; and the names of the classes.

        Args:
            trainer: Of the run.
            data: Its data.
            worst: What :meth:`gather` gave.
        """
        images = data.dataset(Split.VALID)
        places = np.array([place for place, _ in worst])
        batch: Any = to_device(trainer, self.task, images[BatchKey(places, 0, data.size)])
        shown, classes = describe(trainer, self.task, batch["image"], batch[self.task.target_key])
        files = [_name(images.images[row]) for row in images.rows[places]]
        rows = zip(shown, worst, files, strict=True)
        return [Example(item, loss, file) for item, (_, loss), file in rows], classes


def why_none(module: pl.LightningModule, data: object) -> str:
    """Why the images with the largest losses cannot be found; empty where they can."""
    if not isinstance(module, BaseTask):
        return (
            f"The loss of single images is known for the tasks of lightning_finetune, not for {type(module).__name__}."
        )
    if not isinstance(data, ImageDataModule):
        return "The images with the largest losses can be shown of an ImageData, and this run has other data."
    return ""


def _name(source: object) -> str:
    """A file by the end of its path, where the image came from one."""
    words = str(source).replace("\\", "/").split("/")
    return "/".join(words[-3:]) if hasattr(source, "__fspath__") or isinstance(source, str) else ""
