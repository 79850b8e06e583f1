"""Single-label image classification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from lightning_finetune.data.pixels.decode import ImageSource
from lightning_finetune.engine.rates import DEFAULT_LR
from lightning_finetune.errors import DataError, FinetuneError
from lightning_finetune.tasks.base import BaseTask
from lightning_finetune.tasks.measures.confusion import MATRIX, ClassCounts
from lightning_finetune.tasks.measures.metrics import ErrorRate, MetricsArgument
from lightning_finetune.tasks.networks.heads import HeadName
from lightning_finetune.tasks.networks.weights import Weights
from lightning_finetune.tasks.shared.arguments import check_class_weights
from lightning_finetune.tasks.shared.optimizers import OptimizerCallable, fastai_adam
from lightning_finetune.tasks.shared.sources import named, path_of
from lightning_finetune.tasks.shared.verdicts import Verdict, columns, in_words, of_classes, ranked


@dataclass(frozen=True, repr=False)
class Prediction:
    """What a classifier says about one image.

    Attributes:
        label: Name of the most probable class.
        probability: Of that class.
        probabilities: Of every class by name, the most probable first.
        source: The file, where the image came from one.
    """

    label: str
    probability: float
    probabilities: Mapping[str, float]
    source: Path | None = None

    def __repr__(self) -> str:
        return f"Prediction{named(self.source)}: {in_words(self.probabilities)}"


class ImageClassifier(BaseTask):
    """Fine-tunes a pretrained backbone to tell classes of images apart.

    Args:
        model: A timm name (``"convnext_tiny"``), ``"torchvision/resnet50"``, or a module. A module that gives
            ``[B, num_classes]`` is taken as it is; one that gives other features gets a head.
        num_classes: How many classes; the command line takes it from the data.
        weights: True for pretrained ones (of the default model they are installed with the package; others are
            downloaded), False for random ones, or a file or a state dict.
        in_channels: Channels of an image.
        head: ``"multi_level"``, one linear layer over the features of all blocks (of a ``model`` that is a module, over
            what it gives); ``"linear"``, one over the last features; or ``"concat_pool"``, the head of the lessons.
        dropout: Probability before the last layer; None is the head's own, 0.2 or 0.5.
        loss: Replaces cross-entropy: any module of ``(logits [B, num_classes], labels [B])``. ``val_loss`` is then the
            mean over images of what it gives for a batch (see :mod:`lightning_finetune.tasks.measures.set_loss`).
        label_smoothing: Of cross-entropy (Szegedy et al. 2015, https://arxiv.org/abs/1512.00567).
        class_weights: Of cross-entropy, one per class.
        lr: Learning rate; a schedule's callback sets its own.
        weight_decay: Decoupled, of all parameters but norms and biases.
        optimizer: Makes an optimizer from parameter groups.
        metrics: Replace error rate and accuracy: one or several of torchmetrics, of probabilities
            ``[B, num_classes]`` and labels ``[B]``.

    Raises:
        FinetuneError: Arguments that contradict each other or are out of range.
        CheckpointError: Weights that do not fit the model.
    """

    kind = "single"

    def __init__(
        self,
        model: str | nn.Module = "tf_efficientnet_lite0",
        *,
        num_classes: int | None = None,
        weights: Weights = True,
        in_channels: int = 3,
        head: HeadName = "multi_level",
        dropout: float | None = None,
        loss: nn.Module | None = None,
        label_smoothing: float = 0.0,
        class_weights: list[float] | None = None,
        lr: float = DEFAULT_LR,
        weight_decay: float = 1e-2,
        optimizer: OptimizerCallable = fastai_adam,
        metrics: MetricsArgument | None = None,
    ) -> None:
        super().__init__()
        self.build(locals())

    def configure_losses(self) -> nn.Module:
        """Cross-entropy, or the loss that was given."""
        smoothing, class_weights = self.arguments["label_smoothing"], self.arguments["class_weights"]
        loss: nn.Module | None = self.arguments["loss"]
        if loss is not None:
            if smoothing or class_weights is not None:
                raise FinetuneError("Expected `loss`, or `label_smoothing` and `class_weights` for cross-entropy.")
            return loss
        weight = check_class_weights(class_weights, self.num_classes)
        return nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing)

    def configure_metrics(self) -> dict[str, Metric]:
        """Error rate and accuracy over all images."""
        count = self.num_classes
        unchecked: Any = {"validate_args": False}  # `check_target` has; torchmetrics would wait for the device
        accuracy = MulticlassAccuracy(count, average="micro", **unchecked)
        return {"error_rate": ErrorRate(count, **unchecked), "accuracy": accuracy}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax of logits ``[B, num_classes]``."""
        return logits.softmax(dim=1)

    def check_target(self, target: Tensor) -> None:
        """Raise a ``DataError`` for labels that are no class of the model, and shares that are none."""
        if target.is_floating_point():
            self._check_shares(target)
        elif target.numel() and (target.min() < 0 or target.max() >= self.num_classes):
            low, top = int(target.min()), int(target.max())
            way = f"Give num_classes={top + 1} or more." if low >= 0 else "Leave out images without a label."
            known = f"0 to {self.num_classes - 1} (num_classes={self.num_classes})"
            raise DataError(f"Expected labels {known}, got {low} to {top}. {way}")

    def prepare_target(self, target: Tensor) -> Tensor:
        """Class numbers ``[B]`` as int64; mixed labels ``[B, num_classes]`` as they are.

        Raises:
            DataError: They are neither.
        """
        mixed = target.is_floating_point()
        if target.ndim != 1 + mixed or (mixed and target.shape[1] != self.num_classes):
            raise DataError(
                f"Expected labels [B] that are whole numbers, or shares [B, {self.num_classes}] (floats) of classes, "
                f"got {list(target.shape)} of {str(target.dtype).removeprefix('torch.')}. Mend them in the data set: "
                "label.long() of one number, label.argmax() of 0 and 1 for each class, label.squeeze() of [1]."
            )
        return target if mixed else target.long()

    def metric_target(self, target: Tensor) -> Tensor:
        """Class numbers ``[B]``; of shares the largest."""
        return target.argmax(1) if target.is_floating_point() else target

    def _check_shares(self, target: Tensor) -> None:
        if target.numel() and (target.min() < 0 or not torch.allclose(target.sum(-1), target.new_ones(()), atol=1e-2)):
            raise DataError(
                "Expected shares of classes that add up to 1 for each image, got rows such as "
                f"{[round(share, 3) for share in target.reshape(len(target), -1)[0].tolist()][:10]}. If images have "
                "several labels, use MultiLabelClassifier."
            )

    def verdicts(self, predictions: Tensor, target: Tensor) -> list[Verdict]:
        """The most probable class of each image against the true one."""
        return of_classes(predictions, self.metric_target(target), self.classes)

    def confusion(self) -> ClassCounts | None:
        """Counts of true by predicted class, of up to 1,000 classes."""
        return ClassCounts(self.num_classes, validate_args=False) if self.num_classes <= MATRIX else None

    def describe(self, predictions: Tensor, source: ImageSource) -> Prediction:
        """The most probable class of one image, from its probabilities ``[num_classes]``."""
        probabilities = ranked(predictions, self.classes)
        label = next(iter(probabilities))
        return Prediction(label, probabilities[label], probabilities, path_of(source))

    def row(self, prediction: Prediction) -> dict[str, object]:
        """The most probable class, and the probability of every one."""
        return {"prediction": prediction.label, **columns(prediction.probabilities, self.classes)}
