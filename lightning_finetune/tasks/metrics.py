"""What is measured on a whole validation or test set."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy


class ErrorRate(MulticlassAccuracy):
    """Share of images whose most probable class is wrong: 1 - accuracy over all images, as in the lessons.

    Args:
        num_classes: Of the model.
        kwargs: As for any torchmetrics metric.
    """

    higher_is_better = False

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, average="micro", **kwargs)

    def compute(self) -> Tensor:
        """Error rate of all images so far."""
        return 1 - super().compute()


class Measures(nn.Module):
    """Loss and metrics of a whole set: the mean over images, on however many ranks and however they are shared out.

    The mean of the ranks' means, which ``sync_dist`` gives, is another number where ranks hold unequal shares.

    Args:
        stage: ``"val"`` or ``"test"``, which the names begin with.
        metrics: Of probabilities and targets; cloned.
    """

    def __init__(self, stage: str, metrics: MetricCollection) -> None:
        super().__init__()
        self.stage = stage
        self.loss = MeanMetric(nan_strategy="disable")  # a loss that is not finite must show
        self.metrics = metrics.clone(prefix=f"{stage}_")

    def reset(self) -> None:
        """Start anew."""
        self.loss.reset()
        self.metrics.reset()

    def update(self, loss: Tensor, probabilities: Tensor, target: Tensor) -> None:
        """Add a batch, whose mean loss is ``loss``."""
        self.loss.update(loss, weight=len(target))
        self.metrics.update(probabilities, target)

    def compute(self) -> dict[str, Tensor]:
        """Values by name, loss first; on all ranks the same."""
        return {f"{self.stage}_loss": self.loss.compute(), **self.metrics.compute()}
