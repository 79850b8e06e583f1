"""Segmentation: a class for every pixel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from lightning_finetune.data.pixels.decode import ImageSource, Size
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
from lightning_finetune.tasks.shared.on_devices import predict_all
from lightning_finetune.tasks.shared.optimizers import OptimizerCallable, fastai_adam
from lightning_finetune.tasks.shared.room import Room, is_small, room_of
from lightning_finetune.tasks.shared.sources import (
    Sources,
    known_preprocessing,
    named,
    normalize,
    original_size,
    path_of,
)
from lightning_finetune.tasks.shared.symmetries import TTA, mean_over_symmetries
from lightning_finetune.tasks.shared.tiling import Block, blocks_in_tiles, check_tile, largest, scaled, thin
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
        if target.is_floating_point() and bool((target % 1).any()):
            raise DataError("Expected masks of class ids, got numbers with fractions. Save ids as whole numbers.")
        ignore = self.arguments["ignore_index"]
        ids = target if ignore is None else target[target != ignore]
        if ids.numel() and (ids.min() < 0 or ids.max() >= self.num_classes):
            wrong = sorted(set(ids[(ids < 0) | (ids >= self.num_classes)].tolist()))
            raise DataError(
                f"Expected mask ids 0 to {self.num_classes - 1} (num_classes={self.num_classes}), got {wrong[:10]}. "
                "Give more classes, or ignore_index for one id that counts for nothing. If it is a class, as 255 often "
                "is in masks of two, give its pixels the number of the class."
            )

    def check_fit(self, logits: Tensor, target: Tensor) -> None:
        """Raise a ``DataError`` unless there is a logit of each class for each pixel of the masks."""
        if logits.shape[:2] != (len(target), self.num_classes) or logits.shape[2:] != target.shape[1:]:
            wanted = [len(target), self.num_classes, *target.shape[1:]]
            raise DataError(
                f"Expected `model` to give logits {wanted} for masks {list(target.shape)} (num_classes="
                f"{self.num_classes}), got {list(logits.shape)}. Each mask needs the size of its image, and the model "
                "a channel for each class and the size of the image, such as by torch.nn.functional.interpolate."
            )

    def predict(
        self,
        source: Sources,
        *,
        tta: TTA = "none",
        batch_size: int = 32,
        tile: int | None = None,
        scale: float | None = None,
        trainer: Trainer | None = None,
    ) -> Any:
        """Predict the masks of images, at the size of the images.

        A whole image is seen at the scale at which validation saw its own, as one that covers ``size``. What is then
        larger than ``tile`` is seen in overlapping pieces, blended at their seams, in bounded memory: a network of
        convolutions gives what it gives for the whole; one that looks at the whole image sees pieces alone.

        Args:
            source: As of :meth:`~lightning_finetune.tasks.BaseTask.predict`.
            tta: As of the same.
            batch_size: Images at once; fewer where the network would take more than 3 GB for them, of those in pieces
                one.
            tile: Side of a piece in pixels of the model, a multiple of 64; by default 1,024, or less where the network
                would take more than 3 GB for that, but at least the size of validation.
            scale: Pixels of the model for one of the image, in place of the scale that covers ``size``: 1 sees a large
                aerial photo at its own resolution.
            trainer: As of the same.

        Returns:
            One :class:`~lightning_finetune.tasks.MaskPrediction` for one image, a list for many.

        Raises:
            DataError: Files that are no images; names all of them.
            FinetuneError: ``tile`` or ``scale`` are out of range, or the task does not know its images.
        """
        return predict_all(self, source, trainer, tta=tta, batch_size=batch_size, tile=tile, scale=scale)

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
        most = check_tile(tile, self._known()["size"])
        if scale is not None and not 0 < scale < float("inf"):
            raise FinetuneError(f"scale: expected a number above 0, got {scale}.")
        room: Room | None = None
        for start in range(0, len(sources), batch_size):
            batch = [(source, self._seen(source, scale)) for source in sources[start : start + batch_size]]
            wide = max((size for _, size in batch), key=math.prod)
            if room is None and not is_small(len(batch), wide, self.num_classes):
                room = self._room(tta)

            def side(size: Size, room: Room | None = room) -> int:
                return most if tile is not None or room is None else room.side(most, size[1])

            for alone, group in groupby(batch, lambda one: scale is not None or max(one[1]) > side(one[1])):
                if alone:
                    yield from ((source, self._in_tiles(source, size, side(size), tta)) for source, size in group)
                else:
                    few = batch_size if room is None else min(batch_size, room.images(wide))
                    yield from super().predict_each([source for source, _ in group], tta=tta, batch_size=few)

    def judge(self, images: Tensor, target: Tensor, counts: Counts | None, tile: int | None) -> Judged:
        """Images that are larger than a piece are judged part by part.

        A loss that does not add up by pixels (Lovász, a module of somebody's own) is then the mean of the parts.
        """
        size = images.shape[-2], images.shape[-1]
        side = check_tile(tile, self._known()["size"])
        if tile is None and not is_small(len(images), size, self.num_classes):
            side = self._room("none").side(side, size[1])
        if max(size) <= side:
            return super().judge(images, target, counts, None)
        if not adds_up_by_pixel(self.set_loss):
            rank_zero_warn(
                f"The loss of an image that is larger than {side} pixels a side is the mean over its parts: "
                f"{_short(self.arguments['loss'])} is no sum over pixels, and all logits of such an image may not fit "
                "into memory. Masks and counts are those of the whole image."
            )
        each = zip(images, target, strict=True)
        pairs = [self._by_parts(image[None], true[None], counts, side) for image, true in each]
        return torch.stack([loss for loss, _ in pairs]), [verdict for _, verdict in pairs]

    def _by_parts(self, image: Tensor, true: Tensor, counts: Counts | None, side: int) -> tuple[Tensor, Verdict]:
        """Loss and verdict of one uint8 image, of whose logits one piece is in memory."""
        ids = torch.empty_like(true, dtype=torch.int16 if self.num_classes < 2**15 else torch.int32)
        counted, sums = torch.empty_like(ids), torch.zeros((), device=true.device)
        blocks = blocks_in_tiles(lambda part: self(normalize(part, self._known())), image, side)
        for top, left, logits in chain.from_iterable(map(thin, blocks)):
            there = (slice(None), slice(top, top + logits.shape[-2]), slice(left, left + logits.shape[-1]))
            sums = sums + self.set_loss.sums(logits, true[there])
            predictions = self.predictions(logits).float()
            if counts is not None:
                counts.update(predictions, self.metric_target(true[there]))
            ids[there], counted[there] = predictions.argmax(1), self._counted(true[there])
        (verdict,) = of_masks(ids, counted)
        return self.set_loss.mean(sums).float(), verdict

    def _counted(self, target: Tensor) -> Tensor:
        """Masks that are negative where pixels count for nothing."""
        ignore = self.arguments["ignore_index"]
        return target if ignore is None else target.masked_fill(target == ignore, -1)

    def _seen(self, source: ImageSource, scale: float | None) -> Size:
        """Height and width that the model sees of an image; of one that is unreadable, which is told later, a pixel."""
        try:
            size = self._known()["size"]
            return self.input_size(source, size) if scale is None else scaled(original_size(source), scale)
        except DataError:
            return 1, 1

    def _known(self) -> Mapping[str, Any]:
        return known_preprocessing(self.preprocessing)

    def _room(self, tta: TTA) -> Room:
        """What the network takes for an image of the size that validation saw."""
        known = self._known()
        with evaluating(self):
            image = torch.zeros(1, known.get("channels", 3), *known["size"], dtype=torch.uint8)
            return room_of(lambda part: self._probabilities(part, tta), image)

    def _probabilities(self, part: Tensor, tta: TTA) -> Tensor:
        """Of uint8 images ``[B, C, h, w]``, ``[B, classes, h, w]``."""
        pixels = normalize(part.to(self.device), self._known())
        return mean_over_symmetries(lambda turned: self.predictions(self(turned)).float(), pixels, tta)

    def _in_tiles(self, source: ImageSource, seen: Size, side: int, tta: TTA) -> MaskPrediction | DataError:
        """The mask of one image that is seen in pieces, or what is wrong with it."""
        image = self._try_load(source, seen)
        if isinstance(image, DataError):
            return image
        with evaluating(self):
            blocks = blocks_in_tiles(lambda part: self._probabilities(part, tta), image[None], side)
            return MaskPrediction(largest(blocks, seen, original_size(source)), tuple(self.classes), path_of(source))

    def input_size(self, source: ImageSource, size: Size) -> Size:
        """The whole image at the scale at which validation saw it, in place of the crop."""
        height, width = original_size(source)
        return scaled((height, width), max(size[0] / height, size[1] / width))

    def prepare_target(self, target: Tensor) -> Tensor:
        """Class ids ``[B, H, W]`` as int64.

        Raises:
            DataError: They have another shape.
        """
        if target.ndim != 3:
            raise DataError(
                f"Expected masks [B, H, W] of class ids, got {list(target.shape)}. Mend them in the data set: "
                "mask.squeeze(0) of [1, H, W], mask.argmax(0) of 0 and 1 for each class."
            )
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
        ids = largest([Block(0, 0, predictions[None])], (height, width), original_size(source))
        return MaskPrediction(ids, tuple(self.classes), path_of(source))

    def row(self, prediction: MaskPrediction) -> dict[str, object]:
        """Nothing: masks are pictures."""
        return {}

    def mask(self, prediction: MaskPrediction) -> npt.NDArray[np.int64]:
        """The mask."""
        return prediction.mask


def _short(loss: Any) -> str:
    """A loss in an error."""
    return type(loss).__name__ if isinstance(loss, nn.Module) else f"loss={loss!r}"


class UNetSegmenter(SemanticSegmenter):
    """:class:`SemanticSegmenter` with a U-Net; the arguments are the same.

    Another decoder than its default ``"unet"`` is that of a configuration or a checkpoint from before
    :class:`SemanticSegmenter` had its name.
    """
