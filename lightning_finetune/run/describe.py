"""Images with what is true of them and what a module says, in words for a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lightning_finetune.errors import DataError
from lightning_finetune.show.figures import Shown

_THRESHOLD = 0.5
"""From which probability on a label counts, where the task does not say."""


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
        DataError: The module's ``forward`` is not that of a classifier or of a segmenter, or does not fit the targets.
    """
    with torch.no_grad(), trainer.precision_plugin.val_step_context():
        try:
            logits = module(images)
        except (NotImplementedError, TypeError) as error:
            raise DataError(f"expected a `forward` that takes images alone: {error}") from error
    if not isinstance(logits, Tensor) or logits.ndim not in (2, 4):
        raise DataError("expected logits [B, C] or [B, C, H, W] from the module's `forward`.")
    if logits.shape == (len(targets), 1) and not targets.is_floating_point():
        logits, targets = torch.cat([torch.zeros_like(logits), logits], 1), targets.flatten()  # of two classes
    pixels = to_pixels(images, *_statistics(trainer, module))
    names = class_names(trainer, module, logits.shape[1])
    if logits.ndim == 4 and targets.shape == (len(logits), *logits.shape[2:]):
        return _with_masks(pixels, _counted(module, targets), logits.argmax(1)), names
    probabilities = _probabilities(module, logits)
    if logits.ndim == 2 and targets.ndim == 1 and not targets.is_floating_point():
        return _with_label(pixels, targets, probabilities, names), names
    if targets.shape == logits.shape:
        said = probabilities > torch.as_tensor(getattr(module, "thresholds", _THRESHOLD)).cpu()
        return _with_labels(pixels, targets, said, names), names
    raise DataError(f"logits of shape {list(logits.shape)} do not fit targets of shape {list(targets.shape)}.")


def _with_label(pixels: Sequence[Any], targets: Tensor, probabilities: Tensor, names: Sequence[str]) -> list[Shown]:
    best = probabilities.max(1)
    rows = zip(pixels, targets.tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
    return [Shown(image, names[true], f"{names[said]} {share:.0%}", true != said) for image, true, said, share in rows]


def _with_labels(pixels: Sequence[Any], targets: Tensor, present: Tensor, names: Sequence[str]) -> list[Shown]:
    rows = zip(pixels, (targets > _THRESHOLD).cpu(), present, strict=True)
    return [
        Shown(image, _listed(true, names), _listed(said, names), not torch.equal(true, said))
        for image, true, said in rows
    ]


def _listed(flags: Tensor, names: Sequence[str]) -> str:
    return ", ".join(name for name, flag in zip(names, flags.tolist(), strict=True) if flag) or "none"


def _with_masks(pixels: Sequence[Any], targets: Tensor, said: Tensor) -> list[Shown]:
    counted = (targets >= 0).sum((1, 2))
    share = ((targets == said).sum((1, 2)) / counted).tolist()
    masks = zip(targets.cpu().numpy(), said.cpu().numpy(), strict=True)
    rows = zip(pixels, masks, share, strict=True)
    return [Shown(image, "", f"truth | prediction, {same:.0%} equal", None, pair) for image, pair, same in rows]


def _counted(module: nn.Module, masks: Tensor) -> Tensor:
    """Masks with -1, which is left bare, where the task says that pixels count for nothing."""
    arguments = getattr(module, "arguments", None)
    ignored = arguments.get("ignore_index") if isinstance(arguments, dict) else None
    return masks if ignored is None else masks.masked_fill(masks == ignored, -1)


def _probabilities(module: nn.Module, logits: Tensor) -> Tensor:
    own = getattr(module, "probabilities", None)
    found: Tensor = own(logits) if callable(own) else logits.softmax(1)
    return found.float().cpu()


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
