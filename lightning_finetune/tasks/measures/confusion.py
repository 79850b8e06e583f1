"""Which classes a task takes for which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix, MultilabelConfusionMatrix
from typing_extensions import override

from lightning_finetune.errors import FinetuneError

Ints: TypeAlias = npt.NDArray[np.int64]

MATRIX = 1000
"""Classes up to which pairs of them are counted: 8 MB. Of ten thousand it would be 800 MB, nearly all noughts."""

PANELS = 100
"""Labels up to which a picture gives each a matrix of its own."""


Panel: TypeAlias = tuple[str, Sequence[str], Ints]
"""One matrix of a picture: of which label, names of rows and columns, counts of true by predicted ``[K, K]``."""


@dataclass(frozen=True)
class Confusion:
    """How often which class was taken for which.

    Attributes:
        counts: Images, or pixels, by true and predicted class ``[C, C]``.
        classes: Their names.
    """

    counts: Ints
    classes: Sequence[str]

    def panels(self) -> list[Panel]:
        """What a picture shows."""
        return [("", self.classes, self.counts)]

    @property
    def columns(self) -> Sequence[str]:
        """What is counted of each class."""
        return self.classes

    @property
    def table(self) -> tuple[list[str], list[list[object]]]:
        """Columns and rows of a file."""
        return ["actual \\ predicted", *self.classes], self._rows()

    def pairs(self, least: int = 1) -> list[tuple[str, str, int]]:
        """True class, predicted class and how often, of those that differ; the most frequent first."""
        wrong = self.counts * (1 - np.eye(len(self.counts), dtype=np.int64))
        places = np.argwhere(wrong >= max(least, 1)).tolist()
        confused = [(self.classes[true], self.classes[other], int(wrong[true, other])) for true, other in places]
        return sorted(confused, key=lambda pair: -pair[2])  # stable: equals in the order of the classes

    def rates(self) -> tuple[Ints, Ints, Ints]:
        """How often each class was found, was found falsely and was missed, ``[C]`` each."""
        hits = self.counts.diagonal()
        return hits, self.counts.sum(0) - hits, self.counts.sum(1) - hits

    def report(self) -> dict[str, Any]:
        """Precision, recall, F1, IoU and support of each class, by scikit-learn's definitions; NaN for 0 / 0."""
        hits, false, missed = self.rates()
        with np.errstate(invalid="ignore"):
            return {
                "class": list(self.classes),
                "precision": hits / (hits + false),
                "recall": hits / (hits + missed),
                "f1": 2 * hits / (2 * hits + false + missed),
                "iou": hits / (hits + false + missed),
                "support": hits + missed,
            }

    def _rows(self) -> list[list[object]]:
        return [[name, *row.flatten().tolist()] for name, row in zip(self.classes, self.counts, strict=True)]


class LabelConfusion(Confusion):
    """How often each label was found and missed: absent by present ``[L, 2, 2]``, as labels exclude no other."""

    def panels(self) -> list[Panel]:
        """One matrix for each label.

        Raises:
            FinetuneError: There are more than 100.
        """
        if len(self.counts) > PANELS:
            raise FinetuneError(f"Expected at most {PANELS} labels for a picture, got {len(self.counts)}.")
        return [(name, ("absent", "present"), each) for name, each in zip(self.classes, self.counts, strict=True)]

    @property
    @override
    def columns(self) -> Sequence[str]:
        return "true_negative", "false_positive", "false_negative", "true_positive"

    @property
    @override
    def table(self) -> tuple[list[str], list[list[object]]]:
        return ["label", "true absent", "false present", "missed", "true present"], self._rows()

    def pairs(self, least: int = 1) -> list[tuple[str, str, int]]:
        """There are none.

        Raises:
            FinetuneError: In any case.
        """
        raise FinetuneError("Expected classes that exclude each other, got labels. Use report() instead.")

    @override
    def rates(self) -> tuple[Ints, Ints, Ints]:
        return self.counts[:, 1, 1], self.counts[:, 0, 1], self.counts[:, 1, 0]


class ClassCounts(MulticlassConfusionMatrix):
    """torchmetrics' counts of probabilities ``[B, C, ...]`` against classes ``[B, ...]``."""

    def confusion(self, classes: Sequence[str]) -> Confusion:
        """All that was counted; every process must ask."""
        return Confusion(self.compute().cpu().numpy(), classes)


class LabelCounts(MultilabelConfusionMatrix):
    """torchmetrics' counts, with a threshold for each label.

    Args:
        thresholds: From which probability on a label is present.
    """

    limits: Tensor

    def __init__(self, thresholds: Sequence[float]) -> None:
        super().__init__(len(thresholds), validate_args=False)  # the task has; torchmetrics would wait for the device
        self.register_buffer("limits", torch.tensor(thresholds), persistent=False)

    def update(self, probabilities: Tensor, target: Tensor) -> None:
        """Add a batch: probabilities and targets ``[B, L]``."""
        super().update((probabilities > self.limits).int(), target.int())

    def confusion(self, classes: Sequence[str]) -> Confusion:
        """All that was counted; every process must ask."""
        return LabelConfusion(self.compute().cpu().numpy(), classes)


Counts: TypeAlias = ClassCounts | LabelCounts
