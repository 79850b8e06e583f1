"""A figure of a batch: images under their labels, or with their masks laid over them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from lightning_finetune.show.figures.cell import grid
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
    figure, panels = grid(len(images), 3, 3.2)
    for number, panel in enumerate(panels):
        panel.set_axis_off()
        panel.imshow(images[number] if masks is None else overlay(images[number], masks[number]))
        panel.set_title("" if titles is None else titles[number], fontsize=9)
    if masks is not None:
        add_legend(figure, masks, classes)
    return figure
