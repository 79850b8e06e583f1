"""What callbacks share that look at a few validation images, with what the model says of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from typing_extensions import override

from lightning_finetune.errors import DataError
from lightning_finetune.run.describe import describe
from lightning_finetune.show.figures.content import Shown
from lightning_finetune.tasks.shared.batch_parts import TARGETS, images_of, target_of


class Sample:
    """``num`` items of a stream, each equally likely, the same whenever the stream is the same.

    Every item draws a number in turn, and those with the lowest stay, so that the length need not be known.

    Args:
        num: How many to keep.
        seed: Of the draws.
    """

    def __init__(self, num: int, seed: int) -> None:
        self.num = num
        self._generator = np.random.default_rng(seed)
        self._draws = np.empty(0)
        self._images: list[Tensor] = []
        self._targets: list[Tensor] = []

    def offer(self, images: Tensor, targets: Tensor) -> None:
        """Take a batch into account.

        Args:
            images: ``[B, C, H, W]``.
            targets: ``[B, ...]``.
        """
        draws = np.concatenate([self._draws, self._generator.random(len(images))])
        kept = np.sort(np.argsort(draws, kind="stable")[: self.num])
        old = len(self._draws)
        self._images = [self._images[i] if i < old else images[i - old].clone() for i in kept]
        self._targets = [self._targets[i] if i < old else targets[i - old].clone() for i in kept]
        self._draws = draws[kept]

    @property
    def images(self) -> Tensor:
        """The kept images ``[num, C, H, W]``, in the order of the stream.

        Raises:
            DataError: There are none, or their sizes differ.
        """
        if not self._images or len({image.shape for image in self._images}) > 1:
            raise DataError("expected validation images of one size, got none or several sizes.")
        return torch.stack(self._images)

    @property
    def targets(self) -> Tensor:
        """Their targets ``[num, ...]``."""
        return torch.stack(self._targets)


class ValidationSample:
    """The same few images of each validation, taken from the first process in the first validation epoch.

    Args:
        num: How many images.
        seed: Of their choice.

    Attributes:
        missing: Why there are none, where there are none.
    """

    def __init__(self, num: int, seed: int) -> None:
        self.num, self.seed = num, seed
        self.missing = "There was no validation."
        self._sample: Sample | None = None
        self._complete = False

    def begin(self) -> None:
        """Take the sample from the validation that starts, unless an earlier one gave it."""
        if not self._complete:
            self._sample = Sample(self.num, self.seed)

    def take(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, dataloader_idx: int) -> None:
        """Take a validation batch into account.

        Raises:
            DataError: It holds no images or no targets; from then on there is no sample.
        """
        if self._complete or self._sample is None or dataloader_idx or not trainer.is_global_zero:
            return
        try:
            own = getattr(module, "target_key", None)
            self._sample.offer(images_of(batch), target_of(batch, *(TARGETS if own is None else (own,))))
        except DataError as error:
            self._give_up(str(error))
            raise

    def end(self) -> None:
        """Keep what was taken from now on."""
        self._complete = self._sample is not None or self._complete

    def describe(self, trainer: pl.Trainer, module: pl.LightningModule) -> tuple[list[Shown], list[str]]:
        """What :func:`describe` says of the sample; nothing where there is none, or on another than the first process.

        Raises:
            DataError: The module cannot be asked; from then on there is no sample.
        """
        if self._sample is None or not trainer.is_global_zero:
            return [], []
        try:
            return describe(trainer, module, self._sample.images, self._sample.targets)
        except DataError as error:
            self._give_up(str(error))
            raise

    def _give_up(self, why: str) -> None:
        self._sample, self._complete, self.missing = None, True, why


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
