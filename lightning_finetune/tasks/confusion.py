"""Which classes a task takes for which."""

from __future__ import annotations

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix, MultilabelConfusionMatrix

from lightning_finetune.tasks.base import BaseTask
from lightning_finetune.tasks.multilabel import MultiLabelClassifier


class Confusion:
    """Counts of true by predicted class ``[C, C]``; of labels, absent by present ``[L, 2, 2]``; summed over processes.

    Args:
        task: Whose classes, thresholds and ignored pixels hold.
    """

    def __init__(self, task: BaseTask) -> None:
        self._thresholds = task.thresholds if isinstance(task, MultiLabelClassifier) else None
        self._counts: Metric
        if self._thresholds is not None:
            self._counts = MultilabelConfusionMatrix(task.num_classes)
        else:
            ignored = task.arguments.get("ignore_index")
            self._counts = MulticlassConfusionMatrix(task.num_classes, ignore_index=ignored)
        self._counts.to(task.device)

    def update(self, probabilities: Tensor, target: Tensor) -> None:
        """Count a batch: probabilities ``[B, C, ...]`` and targets ``[B, ...]``."""
        if self._thresholds is not None:
            said = (probabilities > probabilities.new_tensor(self._thresholds)).int()
        else:
            said = probabilities.argmax(1)
        self._counts.update(said, target.long())

    def compute(self) -> Tensor:
        """The counts, on the CPU; every process must ask."""
        counts: Tensor = self._counts.compute()
        return counts.cpu()
