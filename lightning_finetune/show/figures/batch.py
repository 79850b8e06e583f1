"""A figure of a batch: images with their labels, or with their masks laid over them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from lightning_finetune.data.batches.dataset import Batch
from lightning_finetune.data.block.masks import VOID
from lightning_finetune.data.pixels.decode import visible

_OVERLAY = 0.5


def batch_figure(batch: Batch, classes: Sequence[str]) -> Figure:
    """Draw every image of a batch.

    Args:
        batch: ``image`` in 0..1, and ``label`` or ``mask``; see :meth:`ImageDataModule.augmented`.
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


def mask_colours(count: int) -> npt.NDArray[np.float64]:
    """A colour for each class, RGB ``[count, 3]``."""
    return np.array([colormaps["tab20"](k % 20)[:3] for k in range(count)])


def _draw(axes: Axes, item: Batch, classes: Sequence[str]) -> None:
    pixels = visible(item["image"]).permute(1, 2, 0).cpu().numpy()
    if "mask" in item:
        ids = item["mask"].cpu().numpy()
        coloured = mask_colours(len(classes))[np.where(ids == VOID, 0, ids)]
        pixels = np.where((ids == VOID)[..., None], pixels, (1 - _OVERLAY) * pixels + _OVERLAY * coloured)
    else:
        axes.set_title(label_text(item["label"], classes), fontsize=9)
    axes.imshow(np.clip(pixels, 0, 1))


def _explain(figure: Figure, masks: Tensor, classes: Sequence[str]) -> None:
    """A legend of the classes that the masks show."""
    colours = mask_colours(len(classes))
    ids = [number for number in np.unique(masks.cpu().numpy()).tolist() if number != VOID]
    patches = [Patch(color=tuple(colours[number]), label=classes[number]) for number in ids]
    figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize=8)
