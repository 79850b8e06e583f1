"""The validation images with the largest losses, found in what validation computes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from lightning_finetune.data.batches.data_module import ImageDataModule
from lightning_finetune.data.batches.dataset import BatchKey
from lightning_finetune.data.block.splits import Split
from lightning_finetune.run.describe import describe
from lightning_finetune.run.trainer import to_device
from lightning_finetune.show.report import Example
from lightning_finetune.tasks.base import BaseTask


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
