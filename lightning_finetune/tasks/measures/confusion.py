"""Which classes a task takes for which."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix, MultilabelConfusionMatrix
from torchmetrics.utilities import dim_zero_cat

from lightning_finetune.tasks.base import BaseTask
from lightning_finetune.tasks.multilabel import MultiLabelClassifier

Ints: TypeAlias = npt.NDArray[np.int64]

MATRIX = 1000
"""Classes up to which every pair of them is counted: 8 MB. Of ten thousand it would be 800 MB, nearly all noughts."""

PANELS = 100
"""Labels up to which a picture gives each a matrix of its own."""


class Pairs(NamedTuple):
    """How often which class was taken for which, of the pairs that occurred, in the order of the classes.

    Attributes:
        true: Number of the true class, ``[K]``.
        found: Number of the predicted class, ``[K]``.
        times: Images, or pixels, ``[K]``.
    """

    true: Ints
    found: Ints
    times: Ints

    def confused(self, least: int = 1) -> Pairs:
        """Pairs of different classes that occurred at least so often, the most frequent first."""
        rows = np.flatnonzero((self.true != self.found) & (self.times >= least))
        rows = rows[np.argsort(-self.times[rows], kind="stable")]
        return Pairs(self.true[rows], self.found[rows], self.times[rows])


Counts: TypeAlias = Ints | Pairs
"""True by predicted class ``[C, C]``; of labels, absent by present ``[L, 2, 2]``; of many classes their pairs."""


class PairCounts(Metric):
    """Counts of pairs of classes, of those that occur.

    Args:
        classes: How many there are.
        ignored: True class that does not count.
        kwargs: As for any torchmetrics metric.
    """

    full_state_update = False
    codes: list[Tensor]
    times: list[Tensor]

    def __init__(self, classes: int, ignored: int | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes, self.ignored = classes, ignored
        self.add_state("codes", [], dist_reduce_fx="cat")
        self.add_state("times", [], dist_reduce_fx="cat")

    def update(self, said: Tensor, target: Tensor) -> None:
        """Add a batch: predicted and true classes ``[B, ...]``."""
        counted = target != (-1 if self.ignored is None else self.ignored)
        codes, times = torch.unique((target * self.classes + said)[counted], return_counts=True)
        self.codes.append(codes)
        self.times.append(times)

    def compute(self) -> Tensor:
        """True class, predicted class and count of each pair, int64 ``[K, 3]``."""
        codes, places = torch.unique(dim_zero_cat(self.codes), return_inverse=True)
        times = torch.zeros_like(codes).scatter_add_(0, places, dim_zero_cat(self.times))
        return torch.stack([codes // self.classes, codes % self.classes, times], dim=1)


class Confusion:
    """Counts of true by predicted class ``[C, C]``; of labels, absent by present ``[L, 2, 2]``; summed over processes.

    Args:
        task: Whose classes, thresholds and ignored pixels hold.
    """

    def __init__(self, task: BaseTask) -> None:
        self._thresholds = task.thresholds if isinstance(task, MultiLabelClassifier) else None
        self._counts: Metric
        ignored = task.arguments.get("ignore_index")
        if self._thresholds is not None:
            self._counts = MultilabelConfusionMatrix(task.num_classes)
        elif task.num_classes <= MATRIX:
            self._counts = MulticlassConfusionMatrix(task.num_classes, ignore_index=ignored)
        else:
            self._counts = PairCounts(task.num_classes, ignored)
        self._counts.to(task.device)

    def update(self, probabilities: Tensor, target: Tensor) -> None:
        """Count a batch: probabilities ``[B, C, ...]`` and targets ``[B, ...]``."""
        if self._thresholds is not None:
            said = (probabilities > probabilities.new_tensor(self._thresholds)).int()
        else:
            said = probabilities.argmax(1)
        self._counts.update(said, target.long())

    def compute(self) -> Counts:
        """The counts, of more than 1,000 classes those of pairs that occurred; every process must ask."""
        counts: Ints = self._counts.compute().cpu().numpy()
        return Pairs(*counts.T) if isinstance(self._counts, PairCounts) else counts


def pairs_of(counts: Counts) -> Pairs:
    """The pairs of classes that occurred."""
    if isinstance(counts, Pairs):
        return counts
    true, found = np.nonzero(counts)
    return Pairs(true, found, counts[true, found])


def rates(counts: Counts, classes: int) -> tuple[Ints, Ints, Ints]:
    """How often each class, or label, was found, was found falsely and was missed, ``[classes]`` each."""
    if not isinstance(counts, Pairs) and counts.ndim == 3:
        return counts[:, 1, 1], counts[:, 0, 1], counts[:, 1, 0]
    pairs = pairs_of(counts)
    true, found = np.zeros((2, classes), dtype=np.int64)
    np.add.at(true, pairs.true, pairs.times)
    np.add.at(found, pairs.found, pairs.times)
    right = pairs.true == pairs.found
    hits = np.zeros(classes, dtype=np.int64)
    hits[pairs.true[right]] = pairs.times[right]
    return hits, found - hits, true - hits


def drawable(counts: Counts) -> TypeGuard[Ints]:
    """Whether a picture can show them."""
    return not isinstance(counts, Pairs) and (counts.ndim == 2 or len(counts) <= PANELS)
