"""What is measured on a whole validation or test set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from lightning_finetune.errors import FinetuneError

MetricsArgument: TypeAlias = Metric | list[Metric] | dict[str, Metric]


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


def collect(metrics: MetricsArgument) -> MetricCollection:
    """One collection of ``metrics``, in the order in which they are given; a dict names them.

    Raises:
        FinetuneError: Something else than metrics of torchmetrics.
    """
    if isinstance(metrics, Metric):
        return MetricCollection(metrics)
    parts = list(metrics.values() if isinstance(metrics, dict) else metrics)
    wrong = [type(part).__name__ for part in parts if not isinstance(part, Metric)]
    if wrong or not parts:
        raise FinetuneError(f"Expected `metrics` to be one or several of torchmetrics, got {wrong or metrics}.")
    if not isinstance(metrics, dict):
        return MetricCollection(parts)  # torchmetrics names each by its class
    collection = MetricCollection({})
    for name, metric in metrics.items():  # one at a time, as torchmetrics sorts the keys of a dict
        collection.add_metrics({name: metric})
    return collection


class ClassIoU(MulticlassJaccardIndex):
    """Intersection over union of each class; NaN for a class that is ignored, or in no mask and no prediction.

    Args:
        num_classes: Of the model.
        ignore_index: Class id of pixels that do not count.
        kwargs: As for any torchmetrics metric.
    """

    def __init__(self, num_classes: int, ignore_index: int | None = None, **kwargs: Any) -> None:
        super().__init__(num_classes, average="none", ignore_index=ignore_index, **kwargs)

    def compute(self) -> Tensor:
        """IoU ``[num_classes]`` over all pixels so far."""
        seen = self.confmat.sum(0) + self.confmat.sum(1) > 0
        ids = torch.arange(self.num_classes, device=seen.device)
        return super().compute().where(seen & (ids != self.ignore_index), float("nan"))


class MeanLoss(Metric):
    """Mean over images of a loss that comes as the mean of a batch; shows one that is not finite.

    torchmetrics' ``MeanMetric`` drops NaN or, told not to, forgets the weights (1.9).
    """

    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, count: int) -> None:
        """Add a batch of ``count`` images, whose mean is ``loss``."""
        self.total += loss.detach() * count
        self.count += count

    def compute(self) -> Tensor:
        """Mean over all images so far."""
        return self.total / self.count


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
        self.loss = MeanLoss()
        self.metrics = metrics.clone(prefix=f"{stage}_")

    def reset(self) -> None:
        """Start anew."""
        self.loss.reset()
        self.metrics.reset()

    def update(self, loss: Tensor, probabilities: Tensor, target: Tensor) -> None:
        """Add a batch, whose mean loss is ``loss``."""
        self.loss.update(loss, len(target))
        self.metrics.update(probabilities, target)

    def compute(self, classes: Sequence[str]) -> dict[str, Tensor]:
        """Values by name, loss first; on all ranks the same.

        Args:
            classes: Names that a metric of one value a class is taken apart by: ``val_iou_car``.
        """
        values: dict[str, Tensor] = {f"{self.stage}_loss": self.loss.compute()}
        for name, value in self.metrics.compute().items():
            each = value.ndim == 1 and len(value) == len(classes) > 1
            values |= {f"{name}_{c}": v for c, v in zip(classes, value, strict=True)} if each else {name: value}
        return values
