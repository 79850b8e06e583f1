"""What is measured on a whole validation or test set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from lightning.pytorch.utilities import rank_zero_warn
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
        counted = seen & (ids != self.ignore_index)
        if counted.sum() < 2:
            rank_zero_warn(
                "The masks and predictions that were measured show fewer than two classes, so that IoU and accuracy "
                "say nothing of the others. If masks hold 255 for a class, give its pixels the class's number."
            )
        return super().compute().where(counted, float("nan"))


class Sums(Metric):
    """Numbers that are added up; shows one that is not finite.

    torchmetrics' ``SumMetric`` drops NaN (1.9).

    Args:
        width: How many.
        kwargs: As for any torchmetrics metric.
    """

    full_state_update = False
    total: Tensor

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros(width), dist_reduce_fx="sum")

    def update(self, sums: Tensor) -> None:
        """Add the numbers ``[width]`` of a batch."""
        self.total += sums.detach()

    def compute(self) -> Tensor:
        """All that was added, ``[width]``."""
        return self.total


class Measures(nn.Module):
    """Loss and metrics of a whole set, on however many ranks and however its images are shared out.

    The mean of the ranks' means, which ``sync_dist`` gives, is another number where ranks hold unequal shares.

    Args:
        stage: ``"val"`` or ``"test"``, which the names begin with.
        metrics: Of probabilities and targets; cloned.
        width: How many numbers of a batch add up to the loss.
    """

    def __init__(self, stage: str, metrics: MetricCollection, width: int) -> None:
        super().__init__()
        self.stage = stage
        self.loss = Sums(width)
        self.metrics = metrics.clone(prefix=f"{stage}_")

    def reset(self) -> None:
        """Start anew."""
        self.loss.reset()
        self.metrics.reset()

    def update(self, sums: Tensor, probabilities: Tensor, target: Tensor) -> None:
        """Add a batch, of which ``sums`` add up to the loss."""
        self.loss.update(sums)
        self.metrics.update(probabilities, target)

    def compute(self, classes: Sequence[str], loss_of: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Values by name, loss first; on all ranks the same.

        Args:
            classes: Names that a metric of one value a class is taken apart by: ``val_iou_car``.
            loss_of: From what was added up to the loss.
        """
        values: dict[str, Tensor] = {f"{self.stage}_loss": loss_of(self.loss.compute())}
        for name, value in self.metrics.compute().items():
            each = value.ndim == 1 and len(value) == len(classes) > 1
            values |= {f"{name}_{c}": v for c, v in zip(classes, value, strict=True)} if each else {name: value}
        return values
