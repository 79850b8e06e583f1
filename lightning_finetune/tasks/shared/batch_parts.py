"""Batches and data modules, ours or foreign: what a task takes from them, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_finetune.errors import DataError

IMAGES = ("image", "pixel_values", "images", "img")
"""Keys of a batch's images: of this package and torchgeo, of transformers, and of many a project."""

TARGETS = ("label", "labels", "mask", "masks", "target", "targets")
"""Keys of a batch's targets, where the module does not say its own."""


def images_of(batch: Any) -> Tensor:
    """The images ``[B, C, H, W]`` of a batch: under one of :data:`IMAGES` of a dict, first in a tuple, or they alone.

    Raises:
        DataError: It holds none.
    """
    images = batch
    if isinstance(batch, Mapping):
        images = _first_of(batch, IMAGES)
    elif isinstance(batch, Sequence) and batch:
        images = batch[0]
    if not isinstance(images, Tensor) or images.ndim != 4:
        raise DataError(f"Expected a batch with images [B, C, H, W] under 'image' or first, got {_outline(batch)}.")
    return images


def target_of(batch: Any, *keys: str) -> Tensor:
    """The targets of a batch: under the first of ``keys`` that a dict has, or second in a tuple.

    Raises:
        DataError: It holds none.
    """
    target = None
    if isinstance(batch, Mapping):
        target = _first_of(batch, keys)
    elif isinstance(batch, Sequence) and len(batch) > 1:
        target = batch[1]
    if not isinstance(target, Tensor):
        under = " or ".join(map(repr, keys))
        raise DataError(f"Expected a batch with a tensor under {under} or second, got {_outline(batch)}.")
    return target


def _first_of(batch: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((batch[key] for key in keys if isinstance(batch.get(key), Tensor)), None)


def check_data(
    datamodule: Any, num_classes: int, in_channels: int, counted: tuple[str, str], classes: list[str] | None
) -> None:
    """Compare a data module with the task before anything is trained.

    Args:
        datamodule: One that says ``num_classes``, ``channels`` and ``classes``; what it does not say is not checked.
        num_classes: Of the task.
        in_channels: Of the images that its model takes.
        counted: The task's argument for ``num_classes``, and what it counts.
        classes: Of the task, if it knows them.

    Raises:
        DataError: They do not fit.
    """
    count = getattr(datamodule, "num_classes", num_classes)
    if count != num_classes:
        raise DataError(
            f"The model has {num_classes} {counted[1]} (`{counted[0]}`), the data {count}. Give {counted[0]}={count}."
        )
    channels = getattr(datamodule, "channels", in_channels)
    if channels != in_channels:
        raise DataError(
            f"The model takes images of {in_channels} channels (`in_channels`), the data gives {channels} "
            f"(`channels`). Give the model in_channels={channels}, or the data channels={in_channels}."
        )
    names = list(getattr(datamodule, "classes", None) or classes or ())
    if classes is not None and names != classes:
        raise DataError(
            f"Expected `data` with the classes {classes}, got {names}. Give the data that the model was trained on; "
            "for other classes begin a new model with its weights: weights='best.ckpt'."
        )


def _outline(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return "a dict of " + ", ".join(f"{key!r}: {_outline(value)}" for key, value in batch.items())
    if isinstance(batch, Tensor):
        return f"a tensor {list(batch.shape)}"
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return f"a {type(batch).__name__} of {len(batch)}: " + ", ".join(map(_outline, batch[:4]))
    return type(batch).__name__


def compare_images(
    trained: Mapping[str, Any] | None,
    datamodule: Any,
    names: Sequence[str] = ("size", "resize", "mean", "std", "white"),
) -> None:
    """Warn of data that makes its images otherwise than a model was ``trained`` on, as by another size.

    Args:
        trained: The model's preprocessing, where it is known.
        datamodule: One that may say its own.
        names: What is compared.
    """
    given = datamodule.preprocessing() if hasattr(datamodule, "preprocessing") else {}
    known = {name: trained[name] for name in names if trained and name in trained and name in given}
    if other := [f"{name} {value} and {given[name]}" for name, value in known.items() if value != given[name]]:
        rank_zero_warn(
            f"The data makes other images than the model was trained on: {'; '.join(other)}. Give it the same "
            "(`size`, `--data.size`, or the run's `--config`), unless you want to know how well it does on these."
        )
