"""A figure of a batch: images with their labels, or with their masks laid over them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from lightning_finetune.show.figures.predictions import class_colour, overlay


def batch_figure(batch: Mapping[str, Tensor], classes: Sequence[str]) -> Figure:
    """Draw every image of a batch.

    Args:
        batch: ``image`` ``[B, 3, h, w]`` in 0..1, and ``label`` or ``mask``, in which negative ids are left bare.
        classes: The names of the classes.
    """
    count = len(batch["image"])
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(3 * columns, 3.2 * rows), layout="constrained")
    for number, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if number < count:
            _draw(axes, {name: value[number] for name, value in batch.items()}, classes)
    if "mask" in batch:
        _explain(figure, batch["mask"], classes)
    return figure


def label_text(label: Tensor, classes: Sequence[str]) -> str:
    """A class name, or the names of a 0/1 vector; of a mixed label, names with their shares."""
    if label.ndim == 0:
        return classes[int(label)]
    shares = [(name, float(share)) for name, share in zip(classes, label, strict=True) if share > 0]
    texts = [name if share == 1 else f"{name} {share:.0%}" for name, share in shares]
    return "\n".join(" ".join(texts[start : start + 3]) for start in range(0, len(texts), 3))


def _draw(axes: Axes, item: Mapping[str, Tensor], classes: Sequence[str]) -> None:
    pixels = item["image"].mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    if "mask" in item:
        pixels = overlay(pixels, item["mask"].cpu().numpy())
    else:
        axes.set_title(label_text(item["label"], classes), fontsize=9)
    axes.imshow(pixels)


def _explain(figure: Figure, masks: Tensor, classes: Sequence[str]) -> None:
    """A legend of the classes that the masks show."""
    ids = [number for number in np.unique(masks.cpu().numpy()).tolist() if number >= 0]
    patches = [Patch(color=class_colour(number), label=classes[number]) for number in ids]
    figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize=8)
