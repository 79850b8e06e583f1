"""Multi-label image classification: any number of labels for each image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MultilabelAveragePrecision

from lightning_finetune.data.pixels.decode import ImageSource
from lightning_finetune.engine.rates import DEFAULT_LR
from lightning_finetune.errors import DataError, FinetuneError
from lightning_finetune.tasks.base import BaseTask
from lightning_finetune.tasks.measures.confusion import LabelCounts
from lightning_finetune.tasks.measures.losses import LabelLoss, MultiLabelLoss
from lightning_finetune.tasks.measures.metrics import MetricsArgument
from lightning_finetune.tasks.measures.thresholds import BestThreshold, LabelAccuracy, SampleFBeta
from lightning_finetune.tasks.networks.heads import HeadName
from lightning_finetune.tasks.networks.weights import Weights
from lightning_finetune.tasks.shared.arguments import choose
from lightning_finetune.tasks.shared.csv_cells import joined
from lightning_finetune.tasks.shared.optimizers import OptimizerCallable, fastai_adam
from lightning_finetune.tasks.shared.sources import named, path_of
from lightning_finetune.tasks.shared.verdicts import Verdict, columns, in_words, of_labels, ranked

Tuning: TypeAlias = Literal["tuned", "tuned_per_label"]

THRESHOLD = 0.2
"""The lessons' threshold for satellite images: with F2, to miss a label costs more than to invent one."""

NAMED = 100
"""Labels up to which each has a metric of its own in the loggers."""

RANKED = 1000
"""Labels up to which mean average precision is measured: it keeps every probability of the whole validation set."""


@dataclass(frozen=True, repr=False)
class LabelsPrediction:
    """What a multi-label classifier says about one image.

    Attributes:
        labels: Names of the labels whose probability is over their threshold, the most probable first.
        probabilities: Of every label by name, the most probable first.
        source: The file, where the image came from one.
    """

    labels: tuple[str, ...]
    probabilities: Mapping[str, float]
    source: Path | None = None

    def __repr__(self) -> str:
        labels = ", ".join(self.labels) or "no label"
        return f"LabelsPrediction{named(self.source)}: {labels} ({in_words(self.probabilities)})"


class MultiLabelClassifier(BaseTask):
    """Fine-tunes a pretrained backbone to find the labels of images.

    Args:
        model: As of :class:`~lightning_finetune.ImageClassifier`.
        num_classes: How many labels; the command line takes it from the data.
        weights: As of :class:`~lightning_finetune.ImageClassifier`.
        in_channels: Channels of an image.
        head: ``"multi_level"``, one linear layer over the features of all blocks (of a ``model`` that is a module, over
            what it gives); ``"linear"``, one over the last features; or ``"concat_pool"``, the head of the lessons.
        dropout: Probability before the last layer; None is the head's own, 0.2 or 0.5.
        loss: ``"bce"``, ``"focal"`` or ``"asymmetric"``; or any module of ``(logits [B, L], targets [B, L])``, of which
            ``val_loss`` is the mean over images.
        pos_weight: Weight of each label where it is present.
        label_smoothing: Part of each target that is moved to one half.
        threshold: From which probability on a label is present: one, or one for each label; or ``"tuned"`` or
            ``"tuned_per_label"``: where F2 of the validation set is highest, found after each validation and kept in
            the checkpoint. Validation still measures at 0.2, as epochs could not be compared otherwise; the test
            measures at what was found.
        lr: Learning rate; a schedule's callback sets its own.
        weight_decay: Decoupled, of all parameters but norms and biases.
        optimizer: Makes an optimizer from parameter groups.
        metrics: Replace F2 over samples, accuracy, mean average precision (of at most 1,000 labels) and accuracy of
            each label (of at most 100): one or several of torchmetrics, of probabilities ``[B, L]`` and targets
            ``[B, L]``.

    Raises:
        FinetuneError: Arguments that contradict each other or are out of range.
        CheckpointError: Weights that do not fit the model.
    """

    kind = "multi"

    def __init__(
        self,
        model: str | nn.Module = "tf_efficientnet_lite0",
        *,
        num_classes: int | None = None,
        weights: Weights = True,
        in_channels: int = 3,
        head: HeadName = "multi_level",
        dropout: float | None = None,
        loss: LabelLoss | nn.Module = "bce",
        pos_weight: list[float] | None = None,
        label_smoothing: float = 0.0,
        threshold: float | list[float] | Tuning = THRESHOLD,
        lr: float = DEFAULT_LR,
        weight_decay: float = 1e-2,
        optimizer: OptimizerCallable = fastai_adam,
        metrics: MetricsArgument | None = None,
    ) -> None:
        super().__init__()
        self.build(locals())
        self.tuner = BestThreshold(threshold == "tuned_per_label") if isinstance(threshold, str) else None
        self.thresholds = self._fixed_thresholds()

    def configure_losses(self) -> nn.Module:
        """The loss that was named or given."""
        loss: LabelLoss | nn.Module = self.arguments["loss"]
        pos_weight, smoothing = self.arguments["pos_weight"], self.arguments["label_smoothing"]
        if not isinstance(loss, nn.Module):
            return MultiLabelLoss(loss, self.num_classes, pos_weight=pos_weight, label_smoothing=smoothing)
        if smoothing or pos_weight is not None:
            raise FinetuneError("Expected `loss` by name with `label_smoothing` and `pos_weight`, or a module alone.")
        return loss

    def configure_metrics(self) -> dict[str, Metric]:
        """F2 over samples, accuracy, mean average precision, and accuracy of each label; the first two of very many."""
        count, thresholds = self.num_classes, self._fixed_thresholds()
        unchecked: Any = {"validate_args": False}  # `check_target` has; torchmetrics would wait for the device
        metrics: dict[str, Metric] = {
            "f2": SampleFBeta(count, 2.0, thresholds),
            "accuracy": LabelAccuracy(count, thresholds, **unchecked),
        }
        if count <= RANKED:
            metrics["map"] = MultilabelAveragePrecision(count, **unchecked)
        if count <= NAMED:
            metrics["label_accuracy"] = LabelAccuracy(count, thresholds, average=None, **unchecked)
        else:
            rank_zero_info(f"{count} labels are too many to measure each: {' and '.join(metrics)} alone are measured.")
        return metrics

    def probabilities(self, logits: Tensor) -> Tensor:
        """Sigmoid of logits ``[B, L]``: of raw ones torchmetrics would guess whether they are probabilities."""
        return logits.sigmoid()

    def check_target(self, target: Tensor) -> None:
        """Raise a ``DataError`` for targets that are not 0 or 1 for each label."""
        if target.ndim != 2 or target.shape[1] != self.num_classes:
            raise DataError(
                f"Expected targets [B, {self.num_classes}] of 0 and 1 (num_classes={self.num_classes}), "
                f"got shape {list(target.shape)}."
            )
        if not bool(((target == 0) | (target == 1)).all()):
            raise DataError(f"Expected targets of 0 and 1, got {target.min():g} to {target.max():g}.")

    def prepare_target(self, target: Tensor) -> Tensor:
        """0, 1 or, of mixed images, between ``[B, L]``, as float32."""
        return target.float()

    def metric_target(self, target: Tensor) -> Tensor:
        """0 or 1 ``[B, L]``, as int64."""
        return target.long()

    def verdicts(self, predictions: Tensor, target: Tensor) -> list[Verdict]:
        """The labels found in each image against those that are true."""
        return of_labels(predictions, predictions > predictions.new_tensor(self.thresholds), target, self.classes)

    def confusion(self) -> LabelCounts:
        """Counts of each label, absent and present, at the thresholds of now."""
        return LabelCounts(self.thresholds)

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Add one batch to loss, metrics and the search for thresholds; what the base class gives."""
        outputs = super().validation_step(batch, batch_idx)
        if self.tuner is not None:
            self.tuner.update(outputs["predictions"], outputs["target"])
        return outputs

    def on_validation_epoch_start(self) -> None:
        """Start loss, metrics and the search for thresholds anew."""
        super().on_validation_epoch_start()
        if self.tuner is not None:
            self.tuner.reset()

    def on_validation_epoch_end(self) -> None:
        """Log loss and metrics of the whole set; take the thresholds that are best on it."""
        super().on_validation_epoch_end()
        if self.tuner is not None and self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            best = self.tuner.compute().expand(self.num_classes)
            self.thresholds = [round(threshold, 2) for threshold in best.tolist()]  # the grid's digits

    def on_test_epoch_start(self) -> None:
        """Start anew, at the thresholds that were found."""
        super().on_test_epoch_start()
        for metric in self.test_measures.metrics.values():
            if isinstance(metric, (SampleFBeta, LabelAccuracy)):
                metric.thresholds = torch.tensor(self.thresholds, device=self.device)

    def learned(self) -> dict[str, Any]:
        """Class names, preprocessing and thresholds."""
        return {**super().learned(), "thresholds": self.thresholds}

    def describe(self, predictions: Tensor, source: ImageSource) -> LabelsPrediction:
        """The labels of one image, from its probabilities ``[L]``."""
        probabilities = ranked(predictions, self.classes)
        limits = dict(zip(self.classes, self.thresholds, strict=True))
        labels = tuple(name for name, share in probabilities.items() if share > limits[name])
        return LabelsPrediction(labels, probabilities, path_of(source))

    def row(self, prediction: LabelsPrediction) -> dict[str, object]:
        """The labels, separated by semicolons, and the probability of every one."""
        return {"prediction": joined(prediction.labels), **columns(prediction.probabilities, self.classes)}

    def _fixed_thresholds(self) -> list[float]:
        """One threshold a label, as given; the lessons' where it is to be tuned."""
        given = self.arguments["threshold"]
        if isinstance(given, str):
            choose("threshold", given, get_args(Tuning))
            given = THRESHOLD
        values = list(given) if isinstance(given, (list, tuple)) else [float(given)] * self.num_classes
        if len(values) != self.num_classes or not all(0 < value < 1 for value in values):
            raise FinetuneError(
                f"Expected `threshold` to be one number in (0, 1), {self.num_classes} of them, "
                f"or one of {list(get_args(Tuning))}, got {given}."
            )
        return values
