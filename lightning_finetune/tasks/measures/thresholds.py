"""From which probability on a label counts as present, and F-beta at it."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MultilabelAccuracy
from torchmetrics.utilities import dim_zero_cat

GRID = tuple(step / 100 for step in range(1, 100))
"""Thresholds that are tried."""


class SampleFBeta(Metric):
    """F-beta of each image's set of labels, meaned over images: fastai's ``FBetaMulti(beta, average="samples")``.

    An image without labels, of which none is predicted, scores 0, as with fastai and scikit-learn.

    Args:
        num_labels: How many labels.
        beta: How much more recall counts than precision; 2 in the planet competition.
        thresholds: From which probability on a label is predicted; one, or one for each label.
        kwargs: As for any torchmetrics metric.
    """

    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor
    thresholds: Tensor

    def __init__(
        self, num_labels: int, beta: float = 2.0, thresholds: float | list[float] = 0.2, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_labels, self.beta = num_labels, beta
        self.register_buffer("thresholds", torch.as_tensor(thresholds, dtype=torch.float32), persistent=False)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, target: Tensor) -> None:
        """Add a batch: probabilities and targets ``[B, num_labels]``."""
        scores = _f_beta(probabilities > self.thresholds, target.bool(), self.beta, dim=1)
        self.total += scores.sum()
        self.count += len(scores)

    def compute(self) -> Tensor:
        """F-beta of all images so far."""
        return self.total / self.count


class LabelAccuracy(MultilabelAccuracy):
    """torchmetrics' accuracy, with a threshold for each label.

    Args:
        num_labels: How many labels.
        thresholds: From which probability on a label is predicted; one, or one for each label.
        average: ``"micro"`` for one number (fastai's ``accuracy_multi``), None for one per label.
        kwargs: As for any torchmetrics metric.
    """

    thresholds: Tensor

    def __init__(
        self,
        num_labels: int,
        thresholds: float | list[float] = 0.2,
        average: Literal["micro"] | None = "micro",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_labels, average=average or "none", **kwargs)
        self.register_buffer("thresholds", torch.as_tensor(thresholds, dtype=torch.float32), persistent=False)

    def update(self, probabilities: Tensor, target: Tensor) -> None:
        """Add a batch: probabilities and targets ``[B, num_labels]``."""
        super().update((probabilities > self.thresholds).int(), target.int())


class BestThreshold(Metric):
    """The threshold at which F-beta is highest.

    Args:
        per_label: One for each label, by the label's own F-beta over images; otherwise one for all, by the F-beta of
            :class:`SampleFBeta`.
        beta: How much more recall counts than precision.
        kwargs: As for any torchmetrics metric.
    """

    full_state_update = False
    probabilities: list[Tensor]
    targets: list[Tensor]

    def __init__(self, per_label: bool, beta: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = 0 if per_label else 1
        self.beta = beta
        self.add_state("probabilities", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, probabilities: Tensor, target: Tensor) -> None:
        """Add a batch: probabilities and targets ``[B, num_labels]``."""
        self.probabilities.append(probabilities.detach().float())
        self.targets.append(target.bool())

    def compute(self) -> Tensor:
        """The best threshold, or thresholds ``[num_labels]``; of equals the middle one."""
        probabilities, targets = dim_zero_cat(self.probabilities), dim_zero_cat(self.targets)
        scores = torch.stack([self._score(probabilities > threshold, targets) for threshold in GRID])
        best = scores >= scores.max(dim=0).values - 1e-6
        grid = torch.tensor(GRID, device=scores.device)
        return torch.stack([grid[column].median() for column in best.reshape(len(GRID), -1).T])

    def _score(self, predicted: Tensor, target: Tensor) -> Tensor:
        score = _f_beta(predicted, target, self.beta, self.dim)
        return score.mean() if self.dim == 1 else score


def _f_beta(predicted: Tensor, target: Tensor, beta: float, dim: int) -> Tensor:
    """F-beta of what is predicted and true, bool ``[B, num_labels]``, along ``dim``; 0 where nothing is either.

    Not torchmetrics', whose ``samplewise`` average squeezes a batch of one image away (1.9).
    """
    hits = (predicted & target).sum(dim).float()
    total = beta**2 * target.sum(dim) + predicted.sum(dim)
    return (1 + beta**2) * hits / total.clamp(min=1)
