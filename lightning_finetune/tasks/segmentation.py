"""Segmentation: a class for every pixel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from lightning_finetune.data.pixels.decode import ImageSource, Size
from lightning_finetune.errors import DataError, FinetuneError
from lightning_finetune.tasks.base import BaseTask
from lightning_finetune.tasks.measures.confusion import MATRIX, ClassCounts
from lightning_finetune.tasks.measures.losses import MaskLoss, SegmentationLoss
from lightning_finetune.tasks.measures.metrics import ClassIoU, MetricsArgument
from lightning_finetune.tasks.networks.decoders import Decoder
from lightning_finetune.tasks.networks.weights import Weights
from lightning_finetune.tasks.shared.arguments import not_plain
from lightning_finetune.tasks.shared.optimizers import OptimizerCallable, fastai_adam
from lightning_finetune.tasks.shared.sources import original_size, path_of
from lightning_finetune.tasks.shared.verdicts import Verdict, of_masks


@dataclass(frozen=True, eq=False)
class MaskPrediction:
    """What a segmenter says about one image.

    Attributes:
        mask: Class id of every pixel ``[H, W]``, at the size of the image.
        classes: Names of the ids.
        source: The file, where the image came from one.
    """

    mask: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    source: Path | None = None


class SemanticSegmenter(BaseTask):
    """Fine-tunes a pretrained encoder with a new decoder to tell the class of every pixel.

    In a head phase decoder and head train. Two classes make a binary segmentation. Images may have any size.

    Args:
        model: Decoder, a name of segmentation-models-pytorch (the U-Net of Ronneberger et al. 2015,
            https://arxiv.org/abs/1505.04597, by default); or a module that gives logits ``[B, num_classes, H, W]``.
        backbone: Encoder, a name of timm or segmentation-models-pytorch; unused where ``model`` is a module.
        num_classes: How many classes; the command line takes it from the data.
        weights: Of the encoder. True for pretrained ones (of the default encoder they are installed with the package;
            others are downloaded), False for random ones, or a file or a state dict.
        in_channels: Channels of an image.
        loss: ``"ce"``, ``"dice"``, ``"focal"`` or ``"lovasz"``; weights of several, ``{"ce": 1, "dice": 0.5}``; or any
            module of ``(logits [B, C, H, W], masks [B, H, W])``, of which ``val_loss`` is the mean over images.
        class_weights: Weight of each class in the loss.
        ignore_index: Class id of pixels that count for nothing, in loss and metrics: the lessons' Void.
        lr: Learning rate; a schedule's callback sets its own.
        weight_decay: Decoupled, of all parameters but norms and biases.
        optimizer: Makes an optimizer from parameter groups.
        metrics: Replace pixel accuracy, mean IoU and IoU of each class: one or several of torchmetrics, of
            probabilities ``[B, C, H, W]`` and masks ``[B, H, W]``.

    Raises:
        FinetuneError: Arguments that contradict each other or are out of range.
        CheckpointError: Weights that do not fit the encoder.
    """

    kind = "mask"
    target_key = "mask"
    output = "probabilities: float32 [B, classes, H, W]"

    def __init__(
        self,
        model: Decoder | nn.Module = "unet",
        *,
        backbone: str = "tf_efficientnet_lite0",
        num_classes: int | None = None,
        weights: Weights = True,
        in_channels: int = 3,
        loss: MaskLoss | dict[MaskLoss, float] | nn.Module = "ce",
        class_weights: list[float] | None = None,
        ignore_index: int | None = None,
        lr: float = 3e-3,
        weight_decay: float = 1e-2,
        optimizer: OptimizerCallable = fastai_adam,
        metrics: MetricsArgument | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=not_plain(locals()))
        self.build(locals())

    def configure_models(self) -> nn.Module:
        """Encoder, decoder and head."""
        from lightning_finetune.tasks.networks.segmenter import build_segmenter  # only now, as it loads timm and more

        return build_segmenter(self.arguments, self.num_classes)

    def configure_losses(self) -> nn.Module:
        """The losses that were named, or the loss that was given."""
        loss: MaskLoss | dict[MaskLoss, float] | nn.Module = self.arguments["loss"]
        class_weights = self.arguments["class_weights"]
        if not isinstance(loss, nn.Module):
            losses = loss if isinstance(loss, dict) else {loss: 1.0}
            ignore = self.arguments["ignore_index"]
            return SegmentationLoss(losses, self.num_classes, class_weights=class_weights, ignore_index=ignore)
        if class_weights is not None:
            raise FinetuneError("Expected `loss` by name with `class_weights`, or a module alone.")
        return loss

    def configure_metrics(self) -> dict[str, Metric]:
        """Pixel accuracy, mean IoU over the classes that occur, and IoU of each class."""
        count = self.num_classes
        # Unchecked, as `check_target` has: torchmetrics would sort the pixels of each batch, and wait for the device.
        options: Any = {"ignore_index": self.arguments["ignore_index"], "validate_args": False}
        return {
            "pixel_accuracy": MulticlassAccuracy(count, average="micro", **options),
            "miou": MulticlassJaccardIndex(count, average="macro", **options),
            "iou": ClassIoU(count, **options),
        }

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax of logits ``[B, C, H, W]`` over classes."""
        return logits.softmax(dim=1)

    def check_target(self, target: Tensor) -> None:
        """Raise a ``DataError`` for ids that are no class of the model and not ignored."""
        ignore = self.arguments["ignore_index"]
        ids = target if ignore is None else target[target != ignore]
        if ids.numel() and (ids.min() < 0 or ids.max() >= self.num_classes):
            wrong = sorted(set(ids[(ids < 0) | (ids >= self.num_classes)].tolist()))
            raise DataError(
                f"Expected mask ids 0 to {self.num_classes - 1} (num_classes={self.num_classes}), got {wrong[:10]}. "
                "Give more classes, or ignore_index for one id that counts for nothing."
            )

    def input_size(self, source: ImageSource, size: Size) -> Size:
        """The whole image at the scale at which validation saw it, in place of the crop."""
        height, width = original_size(source)
        scale = max(size[0] / height, size[1] / width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def prepare_target(self, target: Tensor) -> Tensor:
        """Class ids ``[B, H, W]`` as int64."""
        return target.long()

    def verdicts(self, predictions: Tensor, target: Tensor) -> list[Verdict]:
        """The mask of each image beside the true one, which is left bare where pixels count for nothing."""
        ignore = self.arguments["ignore_index"]
        return of_masks(predictions.argmax(1), target if ignore is None else target.masked_fill(target == ignore, -1))

    def confusion(self) -> ClassCounts | None:
        """Counts of pixels by true and predicted class, of up to 1,000 classes."""
        if self.num_classes > MATRIX:
            return None
        return ClassCounts(self.num_classes, ignore_index=self.arguments["ignore_index"], validate_args=False)

    def describe(self, predictions: Tensor, source: ImageSource) -> MaskPrediction:
        """The mask of one image at the size of the image, from its probabilities ``[C, h, w]``."""
        full = nn.functional.interpolate(predictions[None], original_size(source), mode="bilinear")
        return MaskPrediction(full[0].argmax(0).numpy(), tuple(self.classes), path_of(source))

    def row(self, prediction: MaskPrediction) -> dict[str, object]:
        """Nothing: masks are pictures."""
        return {}

    def mask(self, prediction: MaskPrediction) -> npt.NDArray[np.int64]:
        """The mask."""
        return prediction.mask


class UNetSegmenter(SemanticSegmenter):
    """:class:`SemanticSegmenter` with a U-Net; the arguments are the same.

    Another decoder than its default ``"unet"`` is that of a configuration or a checkpoint from before
    :class:`SemanticSegmenter` had its name.
    """
