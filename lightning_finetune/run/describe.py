"""Images with what is true of them and what a module says, in words for a person."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lightning_finetune.errors import DataError
from lightning_finetune.show.figures.content import Shown
from lightning_finetune.tasks.base import BaseTask
from lightning_finetune.tasks.shared.verdicts import foreign_verdicts


def describe(
    trainer: pl.Trainer, module: pl.LightningModule, images: Tensor, targets: Tensor
) -> tuple[list[Shown], list[str]]:
    """Each image with its truth and what the module says of it, in words; and the names of the classes.

    Args:
        trainer: Whose data module may know the classes' names and how images were normalised.
        module: In ``eval`` mode; may know the same, and how logits become probabilities.
        images: ``[B, C, H, W]``, as the module gets them.
        targets: ``[B, ...]``.

    Raises:
        DataError: The module's ``forward`` takes more than images, or what it gives does not fit the targets.
    """
    with torch.no_grad(), trainer.precision_plugin.val_step_context():
        try:
            logits = module(images)
        except (NotImplementedError, TypeError) as error:
            raise DataError(f"expected a `forward` that takes images alone: {error}") from error
    if isinstance(module, BaseTask):
        said, names = module.predictions(logits).float().cpu(), list(module.classes)
        verdicts = module.verdicts(said, module.prepare_target(targets).cpu())
    else:
        verdicts, names = foreign_verdicts(module, _logits(logits), targets, partial(class_names, trainer, module))
    pixels = to_pixels(images, *_statistics(trainer, module))
    pairs = zip(pixels, verdicts, strict=True)
    return [Shown(image, one.truth, one.prediction, one.wrong, one.masks) for image, one in pairs], names


def _logits(output: Any) -> Any:
    """What models of transformers and torchvision's segmenters wrap."""
    named = output if isinstance(output, Mapping) else {}
    return named.get("logits", named.get("out", output))


def class_names(trainer: pl.Trainer, module: nn.Module, count: int) -> list[str]:
    """The names of ``count`` classes: the module's, else the data module's, else numbers."""
    for owner in (module, getattr(trainer, "datamodule", None)):
        names = getattr(owner, "classes", None)
        if names is not None and len(names) == count:
            return [str(name) for name in names]
    return [str(number) for number in range(count)]


def _statistics(trainer: pl.Trainer, module: nn.Module) -> tuple[Any, Any] | tuple[None, None]:
    """Mean and standard deviation that the images were normalised with, where someone knows."""
    for owner in (getattr(trainer, "datamodule", None), module):
        known = getattr(owner, "normalization", None)
        if known is not None:
            return known[0], known[1]
    return None, None


def to_pixels(images: Tensor, mean: Any, std: Any) -> list[npt.NDArray[np.uint8]]:
    """Images as they can be shown, ``[h, w, 3]`` each; without statistics each is spread over the whole range.

    Args:
        images: ``[B, C, H, W]``, normalised; of more than three channels the first three are shown.
        mean: Of the channels, or None.
        std: Of the channels, or None.
    """
    images = images.detach().float().cpu()
    if mean is not None and len(mean) == images.shape[1]:
        images = images * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    else:
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        images = (images - low) / (high - low).clamp_min(1e-6)
    images = images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)
    return list((images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy())
