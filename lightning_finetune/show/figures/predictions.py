"""A grid of images with what is true and what was predicted."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from lightning_finetune.show.figures.content import Pixels, Shown

_ROWS = 2**22
"""Values of an image that are mixed at once."""

_PALETTE = np.array(colormaps["tab20"].colors)  # type: ignore[attr-defined]  # a list of 20 triples
_RIGHT, _WRONG, _NEUTRAL = "#228833", "#cc3311", "#444444"


def draw_predictions(shown: Sequence[Shown], title: str = "") -> Figure:
    """A grid of images, each under its truth and prediction; wrong ones framed and written in red.

    Args:
        shown: At least one.
        title: Above the grid.
    """
    columns = math.ceil(math.sqrt(len(shown)))
    rows = math.ceil(len(shown) / columns)
    wide = 2 if shown[0].masks is not None else 1
    figure = Figure(figsize=(2.3 * columns * wide, 2.75 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, item in zip(panels, shown, strict=False):
        _draw_one(panel, item)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    if title:
        figure.suptitle(title)
    return figure


def _draw_one(panel: Axes, item: Shown) -> None:
    color = {True: _WRONG, False: _RIGHT, None: _NEUTRAL}[item.wrong]
    panel.imshow(item.image if item.masks is None else np.hstack([overlay(item.image, mask) for mask in item.masks]))
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set(color=color, linewidth=4 if item.wrong else 1)
    mark = {True: "✗ ", False: "✓ ", None: ""}[item.wrong]
    truth = _lines(f"is {item.truth}") if item.truth and item.wrong is not False else []
    panel.set_title("\n".join([*_lines(f"{mark}{item.prediction}"), *truth]), fontsize=9, color=color)


def _lines(text: str) -> list[str]:
    """At most two, of the width of an image."""
    return textwrap.wrap(text, 34, max_lines=2, placeholder=" …")


def overlay(image: Pixels, mask: npt.NDArray[np.int64], opacity: float = 0.55) -> Pixels:
    """``image`` with the classes of ``mask`` in colours; negative ids are left bare.

    Args:
        image: ``[h, w, 3]``.
        mask: Class ids ``[h, w]``.
        opacity: Of the colours.
    """
    mixed = np.empty_like(image)
    for rows in np.array_split(np.arange(len(image)), 1 + image.size // _ROWS):  # of a large image a part at a time
        ids = mask[rows]
        share = np.where(ids >= 0, opacity, 0.0)[..., None]
        mixed[rows] = image[rows] * (1 - share) + _PALETTE[ids % len(_PALETTE)] * 255 * share
    return mixed


def class_colour(number: int) -> str:
    """The colour of a class in an :func:`overlay`, as ``#rrggbb``."""
    return str(to_hex(_PALETTE[number % len(_PALETTE)]))
