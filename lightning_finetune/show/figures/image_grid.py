"""A figure of a batch: images under their labels, or with their masks laid over them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from lightning_finetune.show.figures.cell import CellFigure
from lightning_finetune.show.figures.content import Pixels
from lightning_finetune.show.figures.predictions import add_legend, overlay


def batch_figure(
    images: Sequence[Pixels],
    titles: Sequence[str] | None,
    masks: Sequence[npt.NDArray[np.int64]] | None,
    classes: Sequence[str],
) -> Figure:
    """Draw every image of a batch.

    Args:
        images: ``[h, w, 3]`` each.
        titles: What stands above each.
        masks: Class ids ``[h, w]``, laid over each; negative ones are left bare.
        classes: The names of the classes in masks.
    """
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    figure = CellFigure(figsize=(3 * columns, 3.2 * rows), layout="constrained")
    for number, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if number < len(images):
            axes.imshow(images[number] if masks is None else overlay(images[number], masks[number]))
            axes.set_title("" if titles is None else titles[number], fontsize=9)
    if masks is not None:
        add_legend(figure, masks, classes)
    return figure
