"""The loss of a whole set, which must not depend on how its images are shared out among batches and processes."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class SetLoss(Protocol):
    """A loss that knows what of its batches adds up.

    A mean of the batches' losses would be another number wherever they weigh differently: with weights of classes,
    with ignored pixels, with a smaller last batch.
    """

    @property
    def width(self) -> int:
        """How many numbers :meth:`sums` gives."""

    def sums(self, logits: Tensor, target: Tensor) -> Tensor:
        """What of a batch adds up, ``[width]``."""

    def mean(self, sums: Tensor) -> Tensor:
        """The loss of all batches whose :meth:`sums` were added."""


def adds_up_by_pixel(loss: SetLoss) -> bool:
    """Whether what parts of an image give to :meth:`SetLoss.sums` adds up to what the image does."""
    return bool(getattr(loss, "by_pixel", False))


def set_loss_of(criterion: nn.Module) -> SetLoss:
    """How ``criterion`` is meaned over a set: as it says itself, as torch's cross-entropy is, or else over images."""
    if isinstance(criterion, SetLoss):
        return criterion
    if isinstance(criterion, nn.CrossEntropyLoss) and criterion.reduction == "mean":
        return OfCrossEntropy(criterion)
    return OfImages(criterion)


class OfImages:
    """The mean over images of a loss that is the mean of its batch.

    Args:
        criterion: Logits and targets to that mean.
    """

    width = 2

    def __init__(self, criterion: nn.Module) -> None:
        self.criterion = criterion

    def sums(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss times the batch's weight, and that weight."""
        loss: Tensor = self.criterion(logits, target)
        weight = self.weight(target).to(loss)
        return torch.stack([torch.where(weight > 0, loss * weight, 0.0), weight])  # NaN is the mean of nothing

    def mean(self, sums: Tensor) -> Tensor:
        """The weighted mean of the losses; 0 where nothing has a weight."""
        return torch.where(sums[1] > 0, sums[0] / sums[1], 0.0)

    def weight(self, target: Tensor) -> Tensor:
        """How much a batch weighs."""
        return target.new_full((), len(target), dtype=torch.float32)


class OfCrossEntropy(OfImages):
    """Torch's cross-entropy: sum of weighted losses over sum of weights, with or without label smoothing."""

    criterion: nn.CrossEntropyLoss
    by_pixel = True

    def weight(self, target: Tensor) -> Tensor:
        """The weights of its labels or pixels that are not ignored; of soft targets their number, as in torch."""
        if target.is_floating_point():
            return super().weight(target)
        counted = target != self.criterion.ignore_index
        weights = self.criterion.weight
        return counted.sum() if weights is None else (weights[target.where(counted, 0)] * counted).sum()
