"""MixUp and CutMix: two images of a batch, and their labels, in one."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lightning_finetune.data.pixels.draws import Floats, Ints, Stream, hashes
from lightning_finetune.engine.argument_types import fits
from lightning_finetune.errors import DataError


class MixUp:
    """Each image is a weighted mean of two (Zhang et al. 2018); the larger weight is its own.

    Args:
        alpha: Of the Beta(alpha, alpha) distribution of the weight; larger mixes more.
    """

    def __init__(self, alpha: float = 0.4) -> None:
        self.alpha = _positive(alpha)

    def plan(self, seed: int, epoch: int, items: Ints) -> Tensor:
        """``[B, 2]``: partner and own weight."""
        random = _generator(seed, epoch, items)
        weights = random.beta(self.alpha, self.alpha, len(items))
        return _bits(random.permutation(len(items)), np.maximum(weights, 1 - weights))

    def __call__(self, images: Tensor, plan: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mixed images, the partners ``[B]``, and how much each image keeps of itself ``[B]``."""
        numbers = plan.view(torch.float32)
        partners, own = numbers[:, 0].long(), numbers[:, 1]
        return images[partners].lerp_(images, own[:, None, None, None]), partners, own


class CutMix:
    """A rectangle of each image shows its partner (Yun et al. 2019); one rectangle a batch.

    Args:
        alpha: Of the Beta(alpha, alpha) distribution of the part that stays; larger makes extremes rarer.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = _positive(alpha)

    def plan(self, seed: int, epoch: int, items: Ints) -> Tensor:
        """``[B, 5]``: partner and the rectangle's top, bottom, left and right, 0 to 1."""
        random = _generator(seed, epoch, items)
        half = np.sqrt(1 - random.beta(self.alpha, self.alpha)) / 2
        y, x = random.uniform(size=2)
        edges = np.clip([y - half, y + half, x - half, x + half], 0, 1)
        return _bits(random.permutation(len(items)), *(np.full(len(items), edge) for edge in edges))

    def __call__(self, images: Tensor, plan: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As of :class:`MixUp`; the weights are those of whole pixels."""
        numbers = plan.view(torch.float32)
        partners, (top, bottom, left, right) = numbers[:, 0].long(), numbers[0, 1:]
        rows = torch.arange(images.shape[-2], device=images.device)[:, None] / images.shape[-2]
        columns = torch.arange(images.shape[-1], device=images.device)[None, :] / images.shape[-1]
        inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
        own = 1 - inside.float().mean()
        return torch.where(inside, images[partners], images), partners, own.expand(len(images))


Mixer: TypeAlias = MixUp | CutMix
"""Numbers drawn in the worker, the bits of float32 as int32 ``[B, n]``; carried out on the device."""

Mix: TypeAlias = Literal["mixup", "cutmix"] | Mixer


def mixer(mix: Mix) -> Mixer:
    """The mixing that a name stands for, with the default strength.

    Raises:
        DataError: There is none of that name.
    """
    if not isinstance(mix, str):
        return mix
    if mix not in ("mixup", "cutmix"):
        raise DataError(f"mix: expected 'mixup', 'cutmix', MixUp(alpha) or CutMix(alpha), got {mix!r}.")
    return MixUp() if mix == "mixup" else CutMix()


def mix_labels(labels: Tensor, partners: Tensor, own: Tensor, classes: int) -> Tensor:
    """Soft labels ``[B, classes]``, of class numbers ``[B]`` or 0/1 vectors ``[B, classes]``."""
    soft = one_hot(labels, classes).float() if labels.ndim == 1 else labels
    return soft[partners].lerp(soft, own[:, None])


def _positive(alpha: float) -> float:
    if not fits(alpha, float) or not 0 < alpha < math.inf:
        raise DataError(f"alpha: expected a number above 0, got {alpha}.")
    return alpha


def _generator(seed: int, epoch: int, items: Ints) -> np.random.Generator:
    return np.random.default_rng(hashes(seed, epoch, items[:1], 2, Stream.MIX)[0].tolist())


def _bits(*columns: Floats | Ints) -> Tensor:
    """Columns as the bits of float32, for the reason given at :meth:`Augment.plan`."""
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32).view(np.int32))
