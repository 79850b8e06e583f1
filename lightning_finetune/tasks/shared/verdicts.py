"""What is true of an image and what a module says of it, in words and numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy.typing as npt
import torch
from torch import Tensor, nn

from lightning_finetune.errors import DataError
from lightning_finetune.tasks.shared.csv_cells import joined


@dataclass(frozen=True)
class Verdict:
    """Truth and prediction of one image.

    Attributes:
        truth: In words.
        prediction: In words.
        wrong: Whether they disagree; None where that is a matter of degree.
        masks: True and predicted class ids, ``[h, w]`` each; negative where a pixel counts for nothing.
        row: The same for a table: numbers and names by column.
    """

    truth: str
    prediction: str
    wrong: bool | None = None
    masks: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None
    row: Mapping[str, object] = field(default_factory=dict)


Judged: TypeAlias = tuple[Tensor, list[Verdict]]
"""Losses of images ``[B]``, and what is true and said of each."""


def of_classes(probabilities: Tensor, target: Tensor, names: Sequence[str]) -> list[Verdict]:
    """The most probable class against the true one.

    Args:
        probabilities: ``[B, C]``.
        target: Class numbers ``[B]``.
        names: Of the classes.
    """
    best = probabilities.max(1)
    triples = zip(target.tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        Verdict(
            names[true],
            f"{names[predicted]} {share:.0%}",
            true != predicted,
            row={"prediction": names[predicted], "truth": names[true], "probability": share},
        )
        for true, predicted, share in triples
    ]


def of_labels(probabilities: Tensor, present: Tensor, target: Tensor, names: Sequence[str]) -> list[Verdict]:
    """The labels found against those that are true, and the least probability that a true answer got.

    Args:
        probabilities: ``[B, L]``.
        present: Which labels are found ``[B, L]``.
        target: 0 or 1 ``[B, L]``.
        names: Of the labels.
    """
    true = target.bool()
    least = probabilities.where(true, 1 - probabilities).amin(1).tolist()
    verdicts = []
    for truth, labels, share in zip(_chosen(true, names), _chosen(present, names), least, strict=True):
        row = {"prediction": joined(labels), "truth": joined(truth), "probability": share}
        words = [", ".join(some) or "none" for some in (truth, labels)]
        verdicts.append(Verdict(words[0], words[1], truth != labels, row=row))
    return verdicts


def of_masks(ids: Tensor, target: Tensor) -> list[Verdict]:
    """Masks side by side, and the share of pixels that are equal.

    Args:
        ids: Predicted classes ``[B, h, w]``.
        target: True classes ``[B, h, w]``; negative where a pixel counts for nothing.
    """
    shares = ((ids == target).sum((1, 2)) / (target >= 0).sum((1, 2))).tolist()
    masks = zip(target.cpu().numpy(), ids.cpu().numpy(), strict=True)
    return [
        Verdict("", f"truth | prediction, {share:.0%} equal", None, pair, {"pixel_accuracy": share})
        for pair, share in zip(masks, shares, strict=True)
    ]


def of_numbers(values: Tensor, target: Tensor, names: Sequence[str]) -> list[Verdict]:
    """Numbers beside each other.

    Args:
        values: Predicted ``[B, K]``.
        target: True ``[B, K]``.
        names: Of the numbers.
    """
    verdicts = []
    for predicted, true in zip(values.tolist(), target.tolist(), strict=True):
        row: dict[str, object] = {}
        for name, one, other in zip(names, predicted, true, strict=True):
            end = f"_{name}" if len(names) > 1 else ""
            row |= {f"prediction{end}": one, f"truth{end}": other, f"error{end}": abs(one - other)}
        verdicts.append(Verdict(_numbers(true, names), _numbers(predicted, names), row=row))
    return verdicts


def by_shape(
    predictions: Tensor, target: Tensor, names: Sequence[str], thresholds: Tensor | float = 0.5
) -> list[Verdict]:
    """Verdicts where nobody says what the predictions are.

    Args:
        predictions: Probabilities ``[B, C]`` or ``[B, C, h, w]``, or numbers.
        target: Class numbers, 0/1 vectors, masks or numbers.
        names: Of the classes.
        thresholds: From which probability on a label counts.

    Raises:
        DataError: The two do not fit.
    """
    if predictions.ndim == 4 and target.shape == predictions[:, 0].shape:
        return of_masks(predictions.argmax(1), target)
    if predictions.ndim == 2 and target.ndim == 1 and not target.is_floating_point():
        return of_classes(predictions, target, names)
    if predictions.shape == target.shape and not are_numbers(target):
        return of_labels(predictions, predictions > thresholds, target, names)
    if are_numbers(target) and target.numel() == predictions.numel() == len(target) * len(names):
        return of_numbers(predictions.reshape(len(target), -1), target.reshape(len(target), -1), names)
    raise DataError(f"logits of shape {list(predictions.shape)} do not fit targets of shape {list(target.shape)}.")


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


def are_numbers(target: Tensor) -> bool:
    """Whether targets are numbers, and not classes or the 0 and 1 of labels."""
    return target.is_floating_point() and not bool(((target == 0) | (target == 1)).all())


def ranked(probabilities: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Probabilities ``[C]`` of one image by name, the most probable first."""
    order = probabilities.argsort(descending=True, stable=True).tolist()
    return {names[place]: float(probabilities[place]) for place in order}


def in_words(probabilities: Mapping[str, float], most: int = 5) -> str:
    """Shares of the whole by name, as a sentence has them; of many the first ``most``."""
    shown = [f"{name} {share:.1%}" for name, share in list(probabilities.items())[:most]]
    return ", ".join([*shown, *["…"] * (len(probabilities) > most)])


def columns(probabilities: Mapping[str, float], names: Sequence[str]) -> dict[str, object]:
    """Probabilities as cells of a table, in the order of ``names``."""
    return {f"p({name})": f"{probabilities[name]:.6f}" for name in names}


def _chosen(flags: Tensor, names: Sequence[str]) -> list[list[str]]:
    return [[name for name, flag in zip(names, row, strict=True) if flag] for row in flags.tolist()]


def _numbers(values: Sequence[float], names: Sequence[str]) -> str:
    if len(values) == 1:
        return f"{values[0]:.4g}"
    return ", ".join(f"{name} {value:.4g}" for name, value in zip(names, values, strict=True))
