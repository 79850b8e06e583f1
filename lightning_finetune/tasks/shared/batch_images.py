"""Images of anybody's loader, as a task asks its model of them: what is wrong with those that it cannot take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_finetune.data.block.options import Stats
from lightning_finetune.errors import DataError

_FAR = 10.0  # times as bright as white: bytes are 100 times as bright


@contextmanager
def explained(images: Tensor, channels: int, dtype: torch.dtype | str) -> Iterator[None]:
    """Say what to do where a model fails on images that are not as it takes them.

    Args:
        images: The batch ``[B, C, H, W]``.
        channels: That the model takes.
        dtype: Of its weights.

    Raises:
        DataError: They have other channels or another type; or batch norm got one value for each channel, from one
            image.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        advice = _odd_form(images, channels, dtype)
        if advice is None and len(images) == 1 and "more than 1 value per channel" in str(error):
            advice = (
                "batch_size: expected at least 2 training images in a batch, got 1, from which batch norm cannot "
                "learn. Give batch_size=2 or more (a loader of yours: also drop_last=True), or to a classifier "
                "head='linear'."
            )
        if advice is None:
            raise
        raise DataError(advice) from error


def _odd_form(images: Tensor, channels: int, dtype: torch.dtype | str) -> str | None:
    """What is odd about the shape or type of images, and how to mend it in a data set."""
    if images.shape[1] != channels:
        ways = [
            (images.shape[-1] == channels, "image.permute(2, 0, 1)"),
            (images.shape[1] == 1, f"image.repeat({channels}, 1, 1)"),
        ]
        way = next((way for fits, way in ways if fits), f"images of {channels} channels")
        return (
            f"Expected images [B, {channels}, H, W] (`in_channels`), got {list(images.shape)}. Give {way} in the data "
            "set, or the model another `in_channels`."
        )
    if images.dtype != dtype:
        wanted, got = (str(kind).removeprefix("torch.") for kind in (dtype, images.dtype))
        whole = "" if images.is_floating_point() else " / 255, and normalise it,"
        return f"Expected images of {wanted}, got {got}. Give image.float(){whole} in the data set."
    return None


def warn_of_range(images: Tensor, stats: Stats) -> None:
    """Warn of images that are not normalised as those were on which the weights were learnt.

    Args:
        images: A batch ``[B, C, H, W]``.
        stats: Mean and standard deviation of those.
    """
    low, high = float(images.min()), float(images.max())
    black = min(-mean / std for mean, std in zip(*stats, strict=True))
    white = max((1 - mean) / std for mean, std in zip(*stats, strict=True))
    if high > _FAR * max(white, 1.0) or (black < -0.5 and 0 <= low < high <= 1):
        mean, std = ([round(float(value), 3) for value in values] for values in stats)
        rank_zero_warn(
            f"The images of the loader go from {low:.3g} to {high:.3g}, but the weights were learnt on normalised "
            f"ones, from {black:.2g} to {white:.2g}. Normalise them in the data set, once they go from 0 to 1: "
            f"(image - mean) / std, with mean {mean} and std {std}."
        )
