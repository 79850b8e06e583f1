"""Segmentation: a class for every pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from lightning_finetune.data.pixels.decode import ImageSource, Size, load_image
from lightning_finetune.engine.rates import DEFAULT_LR
from lightning_finetune.engine.snapshot import evaluating
from lightning_finetune.errors import DataError, FinetuneError
from lightning_finetune.tasks.base import BaseTask
from lightning_finetune.tasks.measures.confusion import MATRIX, ClassCounts, Counts
from lightning_finetune.tasks.measures.losses import MaskLoss, SegmentationLoss
from lightning_finetune.tasks.measures.metrics import ClassIoU, MetricsArgument
from lightning_finetune.tasks.measures.set_loss import adds_up_by_pixel
from lightning_finetune.tasks.networks.decoders import DEFAULT_BACKBONE, Decoder
from lightning_finetune.tasks.networks.weights import Weights
from lightning_finetune.tasks.shared.optimizers import OptimizerCallable, fastai_adam
from lightning_finetune.tasks.shared.sources import (
    Sources,
    all_of,
    known_preprocessing,
    list_sources,
    named,
    normalize,
    original_size,
    path_of,
)
from lightning_finetune.tasks.shared.symmetries import TTA, mean_over_symmetries
from lightning_finetune.tasks.shared.tiling import (
    check_tile,
    in_tiles,
    largest,
    rows_in_tiles,
    scaled,
    thin_bands,
)
from lightning_finetune.tasks.shared.verdicts import Judged, Verdict, in_words, of_masks


@dataclass(frozen=True, eq=False, repr=False)
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

    def __repr__(self) -> str:
        counts = np.bincount(self.mask.ravel(), minlength=len(self.classes))
        order = np.argsort(-counts, kind="stable")
        shares = {self.classes[place]: counts[place] / self.mask.size for place in order if counts[place]}
        height, width = self.mask.shape
        return f"MaskPrediction{named(self.source)}, {height} x {width} pixels: {in_words(shares)}"


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
        backbone: str = DEFAULT_BACKBONE,
        num_classes: int | None = None,
        weights: Weights = True,
        in_channels: int = 3,
        loss: MaskLoss | dict[MaskLoss, float] | nn.Module = "ce",
        class_weights: list[float] | None = None,
        ignore_index: int | None = None,
        lr: float = DEFAULT_LR,
        weight_decay: float = 1e-2,
        optimizer: OptimizerCallable = fastai_adam,
        metrics: MetricsArgument | None = None,
    ) -> None:
        super().__init__()
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

    def predict(
        self,
        source: Sources,
        *,
        tta: TTA = "none",
        batch_size: int = 32,
        tile: int | None = None,
        scale: float | None = None,
    ) -> Any:
        """Predict the masks of images, at the size of the images.

        A whole image is seen at the scale at which validation saw its own, as one that covers ``size``. What is then
        larger than ``tile`` is seen in overlapping pieces, blended at their seams, in the memory of a row of pieces: a
        network of convolutions gives what it gives for the whole; one that looks at the whole image sees pieces alone.

        Args:
            source: As of :meth:`~lightning_finetune.tasks.BaseTask.predict`.
            tta: As of the same.
            batch_size: Images at once; of those in pieces one.
            tile: Side of a piece in pixels of the model, a multiple of 64; by default 1,024, or the size of validation
                if that is larger.
            scale: Pixels of the model for one of the image, in place of the scale that covers ``size``: 1 sees a large
                aerial photo at its own resolution.

        Returns:
            One :class:`~lightning_finetune.tasks.MaskPrediction` for one image, a list for many.

        Raises:
            DataError: Files that are no images; names all of them.
            FinetuneError: ``tile`` or ``scale`` are out of range, or the task does not know its images.
        """
        sources, many = list_sources(source)
        return all_of(self.predict_each(sources, tta=tta, batch_size=batch_size, tile=tile, scale=scale), many)

    def predict_each(
        self,
        sources: Sequence[ImageSource],
        *,
        tta: TTA = "none",
        batch_size: int = 32,
        tile: int | None = None,
        scale: float | None = None,
    ) -> Iterator[tuple[ImageSource, Any]]:
        """One image after the other, with its mask or the ``DataError`` of one that is unreadable.

        Args:
            sources: Image files, PIL images or uint8 arrays.
            tta: As of :meth:`predict`.
            batch_size: As of :meth:`predict`.
            tile: As of :meth:`predict`.
            scale: As of :meth:`predict`.
        """
        size = known_preprocessing(self.preprocessing)["size"]
        side = check_tile(tile, size)
        if scale is not None and not 0 < scale < float("inf"):
            raise FinetuneError(f"scale: expected a number above 0, got {scale}.")
        for start in range(0, len(sources), batch_size):
            batch = sources[start : start + batch_size]
            for alone, group in groupby(batch, lambda source: scale is not None or self._is_larger(source, side)):
                if alone:
                    yield from ((source, self._in_tiles(source, side, scale, tta)) for source in group)
                else:
                    yield from super().predict_each(list(group), tta=tta, batch_size=batch_size)

    def logits_of(self, images: Tensor, tile: int | None = None) -> Tensor:
        """Logits of normalised images ``[B, C, H, W]``, in pieces as of :meth:`predict` where they are larger."""
        size = known_preprocessing(self.preprocessing)["size"]
        return in_tiles(self, images, check_tile(tile, size))

    def judge(self, images: Tensor, target: Tensor, counts: Counts | None, tile: int | None) -> Judged:
        """Images that are larger than a piece are judged band by band, if the loss adds up by pixels."""
        side = check_tile(tile, known_preprocessing(self.preprocessing)["size"])
        if max(images.shape[-2:]) <= side or not adds_up_by_pixel(self.set_loss):
            return super().judge(images, target, counts, tile)
        each = zip(images, target, strict=True)
        pairs = [self._by_bands(image[None], true[None], counts, side) for image, true in each]
        return torch.stack([loss for loss, _ in pairs]), [verdict for _, verdict in pairs]

    def _by_bands(self, image: Tensor, true: Tensor, counts: Counts | None, side: int) -> tuple[Tensor, Verdict]:
        """Loss and verdict of one image, of which no more than a row of pieces is in memory."""
        sums, ids, top = torch.zeros((), device=true.device), torch.empty_like(true), 0
        for logits in thin_bands(rows_in_tiles(self, image, side)):
            rows = slice(top, top + logits.shape[-2])
            sums = sums + self.set_loss.sums(logits, true[:, rows])
            predictions = self.predictions(logits).float()
            if counts is not None:
                counts.update(predictions, self.metric_target(true[:, rows]))
            ids[:, rows] = predictions.argmax(1)
            top = rows.stop
        (verdict,) = of_masks(ids, self._counted(true))
        return self.set_loss.mean(sums).float(), verdict

    def _counted(self, target: Tensor) -> Tensor:
        """Masks that are negative where pixels count for nothing."""
        ignore = self.arguments["ignore_index"]
        return target if ignore is None else target.masked_fill(target == ignore, -1)

    def _is_larger(self, source: ImageSource, side: int) -> bool:
        """Whether the model would see more than a piece; what is unreadable is left to be told later."""
        height, width = known_preprocessing(self.preprocessing)["size"]
        try:
            return max(self.input_size(source, (height, width))) > side
        except DataError:
            return False

    def _in_tiles(self, source: ImageSource, side: int, scale: float | None, tta: TTA) -> MaskPrediction | DataError:
        """The mask of one image that is seen in pieces, or what is wrong with it."""
        preprocessing = known_preprocessing(self.preprocessing)
        size, channels = preprocessing["size"], preprocessing.get("channels", 3)
        try:
            full = original_size(source)
            seen = self.input_size(source, size) if scale is None else scaled(full, scale)
            image = load_image(source, seen, preprocessing["resize"], channels, preprocessing.get("white"))
        except DataError as error:
            return error

        def probabilities(part: Tensor) -> Tensor:
            pixels = normalize(part.to(self.device), preprocessing)
            return mean_over_symmetries(lambda turned: self.predictions(self(turned)).float(), pixels, tta)

        with evaluating(self):
            rows = (band[0] for band in rows_in_tiles(probabilities, image[None], side))
            return MaskPrediction(largest(rows, seen, full), tuple(self.classes), path_of(source))

    def input_size(self, source: ImageSource, size: Size) -> Size:
        """The whole image at the scale at which validation saw it, in place of the crop."""
        height, width = original_size(source)
        return scaled((height, width), max(size[0] / height, size[1] / width))

    def prepare_target(self, target: Tensor) -> Tensor:
        """Class ids ``[B, H, W]`` as int64."""
        return target.long()

    def verdicts(self, predictions: Tensor, target: Tensor) -> list[Verdict]:
        """The mask of each image beside the true one, which is left bare where pixels count for nothing."""
        return of_masks(predictions.argmax(1), self._counted(target))

    def confusion(self) -> ClassCounts | None:
        """Counts of pixels by true and predicted class, of up to 1,000 classes."""
        if self.num_classes > MATRIX:
            return None
        return ClassCounts(self.num_classes, ignore_index=self.arguments["ignore_index"], validate_args=False)

    def describe(self, predictions: Tensor, source: ImageSource) -> MaskPrediction:
        """The mask of one image at the size of the image, from its probabilities ``[C, h, w]``."""
        height, width = predictions.shape[-2:]
        ids = largest(iter([predictions]), (height, width), original_size(source))
        return MaskPrediction(ids, tuple(self.classes), path_of(source))

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
