"""A task of one's own: grades, which are classes with an order, so that a near miss is better than a far one.

Each output says whether a grade lies above one of the limits between grades (Frank and Hall 2001).
"""

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.regression import MeanAbsoluteError

from lightning_finetune.tasks import BaseTask
from lightning_finetune.tasks.networks.classifier import build_classifier


class AboveLimits(nn.Module):
    """Binary cross-entropy of each limit: logits ``[B, grades - 1]`` and grades ``[B]``."""

    def forward(self, logits: Tensor, grades: Tensor) -> Tensor:
        above = grades[:, None] > torch.arange(logits.shape[1], device=grades.device)
        return nn.functional.binary_cross_entropy_with_logits(logits, above.to(logits))


class RankError(MeanAbsoluteError):
    """By how many grades the most probable one is wrong."""

    def update(self, probabilities: Tensor, grades: Tensor) -> None:
        super().update(probabilities.argmax(1), grades)


class GradeClassifier(BaseTask):
    """Fine-tunes a pretrained backbone to grade images; grades are ordered as the data orders its classes."""

    kind = "single"  # one label per image

    def __init__(self, model="tf_efficientnet_lite0", *, num_classes=None, weights=True, in_channels=3, head="linear",
                 dropout=0.0, lr=3e-3, weight_decay=1e-2, optimizer=torch.optim.AdamW, metrics=None):  # fmt: skip
        super().__init__()
        self.build(locals())

    def configure_models(self) -> nn.Module:
        return build_classifier(self.arguments, self.num_classes - 1)

    def configure_losses(self) -> nn.Module:
        return AboveLimits()

    def configure_metrics(self) -> dict[str, Metric]:
        return {"grades_off": RankError(), "accuracy": MulticlassAccuracy(self.num_classes, average="micro")}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of each grade ``[B, grades]``, from those of lying above each limit, which must not rise."""
        above = nn.functional.pad(logits.sigmoid(), (1, 0), value=1.0).cummin(1).values
        return above - nn.functional.pad(above[:, 1:], (0, 1))

    def describe(self, predictions: Tensor, source) -> str:
        return self.classes[int(predictions.argmax())]
