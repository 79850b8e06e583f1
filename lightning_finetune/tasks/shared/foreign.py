"""What a module that is no task of this package says of images, as far as the shapes of its outputs tell."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from lightning_finetune.errors import DataError
from lightning_finetune.tasks.shared.verdicts import Verdict, are_numbers, by_shape


def foreign_verdicts(
    module: nn.Module, logits: object, target: Tensor, names_of: Callable[[int], list[str]]
) -> tuple[list[Verdict], list[str]]:
    """Truth and prediction of each image, and the names of the classes.

    Args:
        module: May know how logits become ``probabilities``, from which ``thresholds`` on a label counts, and by its
            hyper-parameter ``ignore_index`` which pixels do not.
        logits: What it gave for a batch.
        target: The batch's targets ``[B, ...]``.
        names_of: Names of so many classes.

    Raises:
        DataError: The module is not a classifier, a segmenter or a regressor, or does not fit the targets.
    """
    if not isinstance(logits, Tensor) or logits.ndim not in (1, 2, 4):
        raise DataError("expected logits [B, C] or [B, C, H, W] from the module's `forward`.")
    logits = logits.reshape(len(logits), -1) if logits.ndim == 1 else logits
    target = target.squeeze(1) if target.ndim == logits.ndim and target.shape[1] == 1 else target
    if logits.shape[1] == 1 and not are_numbers(target):
        logits, target = torch.cat([torch.zeros_like(logits), logits], 1), target.long()  # of two classes
    ignored = getattr(module, "hparams", {}).get("ignore_index")  # as torchgeo's tasks name it
    target = target if ignored is None else target.masked_fill(target == ignored, -1)
    own = getattr(module, "probabilities", None)
    to_probabilities = (
        own if callable(own) else torch.sigmoid if target.shape == logits.shape else partial(torch.softmax, dim=1)
    )
    predictions = logits if are_numbers(target) else to_probabilities(logits)
    names, thresholds = names_of(logits.shape[1]), torch.as_tensor(getattr(module, "thresholds", 0.5)).cpu()
    return by_shape(predictions.float().cpu(), target.cpu(), names, thresholds), names
