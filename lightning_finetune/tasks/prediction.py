"""From image files to what a task says about them, with the preprocessing that the task was validated with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from lightning_finetune.data.block.files import image_files
from lightning_finetune.data.pixels.decode import ImageSource, Size, decode_fully, image_size, is_array, load_image
from lightning_finetune.errors import DataError, FinetuneError, first_ten
from lightning_finetune.tasks.shared.symmetries import TTA, mean_over_symmetries

Sources: TypeAlias = "ImageSource | Sequence[ImageSource]"


class Predicts(nn.Module, ABC):
    """Adds :meth:`predict` to a task.

    Attributes:
        preprocessing: ``{"size": [h, w], "mean": […], "std": […], "resize": …}``, as the data module gave it.
    """

    preprocessing: dict[str, Any] | None

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities from logits."""

    @abstractmethod
    def describe(self, probabilities: Tensor, source: ImageSource) -> Any:
        """What the task says about one image, from its probabilities."""

    def predict(self, source: Sources, *, tta: TTA = "none", batch_size: int = 32) -> Any:
        """Predict images as validation saw them.

        Args:
            source: An image file, a PIL image or a uint8 array; or many: a list of these, or a folder, whose images
                are taken in sorted order.
            tta: Mean over symmetries of the image; see
                :func:`~lightning_finetune.tasks.shared.symmetries.mean_over_symmetries`.
            batch_size: Images at once.

        Returns:
            One prediction for one image, a list for many.

        Raises:
            DataError: Files that are no images; names all of them.
            FinetuneError: The task was trained on data that did not say how it makes images.
        """
        sources, many = list_sources(source)
        pairs = list(self.predict_each(sources, tta=tta, batch_size=batch_size))
        bad = [str(found) for _, found in pairs if isinstance(found, DataError)]
        if bad:
            raise DataError(f"{len(bad)} of {len(sources)} images cannot be read:{first_ten(bad)}")
        return [found for _, found in pairs] if many else pairs[0][1]

    def predict_each(
        self, sources: Sequence[ImageSource], *, tta: TTA = "none", batch_size: int = 32
    ) -> Iterator[tuple[ImageSource, Any]]:
        """One image after the other, with what the task says about it or the ``DataError`` of one that is unreadable.

        Args:
            sources: Image files, PIL images or uint8 arrays.
            tta: As of :meth:`predict`.
            batch_size: Images at once, and in memory.
        """
        preprocessing = known_preprocessing(self.preprocessing)
        for start in range(0, len(sources), batch_size):
            batch = sources[start : start + batch_size]
            read = [self._try_load(source, preprocessing) for source in batch]
            rows = iter(self._rows([image for image in read if isinstance(image, Tensor)], preprocessing, tta))
            for source, image in zip(batch, read, strict=True):
                yield source, image if isinstance(image, DataError) else self.describe(next(rows), source)

    def input_size(self, source: ImageSource, size: Size) -> Size:
        """At which size the model sees an image, where validation saw ``size``."""
        return size

    def _try_load(self, source: ImageSource, preprocessing: Mapping[str, Any]) -> Tensor | DataError:
        """The image, or what is wrong with it."""
        height, width = preprocessing["size"]
        try:
            size, channels = self.input_size(source, (height, width)), preprocessing.get("channels", 3)
            return load_image(source, size, preprocessing["resize"], channels)
        except DataError as error:
            return error

    def _rows(self, images: Sequence[Tensor], preprocessing: Mapping[str, Any], tta: TTA) -> list[Tensor]:
        """Probabilities of each image; neighbours of one size go through the model together."""
        device, mode = next(self.parameters()).device, self.training
        rows: list[Tensor] = []
        self.eval()
        try:
            with torch.inference_mode():
                for _, group in groupby(images, key=lambda image: image.shape):
                    batch = normalize(torch.stack(list(group)).to(device), preprocessing)
                    found = mean_over_symmetries(lambda turned: self.probabilities(self(turned)), batch, tta)
                    rows += found.float().cpu()
        finally:
            self.train(mode)
        return rows


def list_sources(source: Sources) -> tuple[Sequence[ImageSource], bool]:
    """The images that ``source`` means, and whether it means many."""
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        files = image_files(Path(source))
        if not files:
            raise DataError(f"{source}: expected a folder with images, found none in it.")
        return files, True
    if isinstance(source, Sequence) and not isinstance(source, str):
        return source, True
    return [source], False


def known_preprocessing(preprocessing: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """``preprocessing``, if it says at which size images are made.

    Raises:
        FinetuneError: It does not.
    """
    if preprocessing is None or preprocessing.get("size") is None:
        raise FinetuneError(
            "Expected a task that knows the size of its images; its data module has no `preprocessing()`. "
            "Set task.preprocessing = {'size': [h, w], 'mean': […], 'std': […], 'resize': 'crop'} as it was trained."
        )
    return preprocessing


def normalize(pixels: Tensor, preprocessing: Mapping[str, Any]) -> Tensor:
    """uint8 images ``[B, C, H, W]`` as the model takes them."""
    mean, std = (pixels.new_tensor(preprocessing[name], dtype=torch.float32) for name in ("mean", "std"))
    return (pixels.float() / 255 - mean[:, None, None]) / std[:, None, None]


def original_size(source: ImageSource) -> Size:
    """Height and width of an image, upright as it is seen.

    Raises:
        DataError: A file that is no image.
    """
    if isinstance(source, Tensor):
        return source.shape[-2], source.shape[-1]
    if isinstance(source, Image.Image):
        width, height = ImageOps.exif_transpose(source).size
        return height, width
    if isinstance(source, (str, Path)):
        if not is_array(source):
            decode_fully(source)  # names what is wrong with a file
        return image_size(source)
    return source.shape[0], source.shape[1]
