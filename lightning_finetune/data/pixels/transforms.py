"""What a data module accepts as augmentation: a preset, our own, or anybody's transform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_finetune.data.pixels.augment import Augment, Preset
from lightning_finetune.data.pixels.draws import Ints, Stream, hashes
from lightning_finetune.errors import DataError

Transform: TypeAlias = Callable[..., Any]
Augmentation: TypeAlias = Preset | Augment | Transform


class EachImage:
    """Somebody's transform, such as one of torchvision's v2, called for one image (and mask) at a time.

    Each image gets its own random state, from (seed, epoch, item); that of the training run is left as it was.

    Args:
        transform: From an image, uint8 ``[3, h, w]``, to an image of the same size; where there are masks, from an
            image and a mask (``tv_tensors``) to both.
    """

    is_random = True

    def __init__(self, transform: Transform) -> None:
        self.transform = transform

    def symmetries(self, seed: int, epoch: int, items: Ints, square: bool) -> Ints:
        """None: flips are the transform's to make."""
        return items * 0

    def plan(self, seed: int, epoch: int, items: Ints, size: tuple[int, int]) -> Any:
        """A random seed for each item, as a list: it stays with the host, which would have to wait for a tensor."""
        return hashes(seed, epoch, items, 1, Stream.AUGMENT).view("int64")[:, 0].tolist()

    def __call__(self, images: Tensor, masks: Tensor | None, plan: Any) -> tuple[Tensor, Tensor | None]:
        """Transform each image with its own seed, as ``plan`` lists them: uint8 to float32 in 0..1.

        Raises:
            DataError: The transform changes the size of images or gives them another number of channels.
        """
        devices = [images.device] if images.device.type == "cuda" else []
        pixels, ids = [], []
        with torch.random.fork_rng(devices=devices):
            for row, seed in enumerate(plan):
                torch.manual_seed(seed)
                image, mask = self._one(images[row], None if masks is None else masks[row])
                pixels.append(image)
                ids.append(mask)
        wrong = {tuple(image.shape) for image in pixels} - {tuple(images.shape[1:])}
        if wrong:
            raise DataError(
                f"augment: expected a transform that keeps the shape {tuple(images.shape[1:])}, got {sorted(wrong)}. "
                "Leave the size to the data module."
            )
        return torch.stack(pixels), None if masks is None else torch.stack([mask for mask in ids if mask is not None])

    def _one(self, image: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        from torchvision import tv_tensors  # only now: most augment without it
        from torchvision.transforms.v2 import functional

        if mask is None:
            changed = self.transform(tv_tensors.Image(image))
        else:
            changed, mask = self.transform(tv_tensors.Image(image), tv_tensors.Mask(mask))
            mask = torch.as_tensor(mask).as_subclass(Tensor)
        return functional.to_dtype(changed, torch.float32, scale=True).as_subclass(Tensor), mask


Augmenter: TypeAlias = Augment | EachImage
"""Numbers drawn in the worker from (seed, epoch, item), carried out on the device."""


def augmenter(augment: Augmentation) -> Augmenter:
    """The augmentation that a name, an :class:`Augment` or a transform stands for.

    Raises:
        DataError: It is none of them.
    """
    if isinstance(augment, str):
        return Augment.preset(augment)
    if isinstance(augment, Augment):
        return augment
    if not callable(augment):
        raise DataError(f"augment: expected a preset, an Augment or a transform, got {type(augment).__name__}.")
    return EachImage(augment)
