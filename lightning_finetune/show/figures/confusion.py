"""Confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_finetune.show.figures.cell import grid, short_name

_READABLE = 25  # classes up to which numbers fit into their cells
_COUNTED = 10_000  # from which on, as of pixels, shares of the true class stand in place of counts
_NAMED = 60  # classes up to which names do not overlap


Panel: TypeAlias = tuple[str, Sequence[str], npt.NDArray[np.int64]]
"""A title, the names of rows and columns, and counts of true by predicted class ``[K, K]``."""


def draw_confusion(panels: Sequence[Panel], title: str = "") -> Figure:
    """True by predicted class, shaded by the share of the true class.

    Args:
        panels: One large matrix, whose names are left out where they would overlap, as are the numbers before; or
            several small ones.
        title: Above all.
    """
    side = min(3 + 0.4 * len(panels[0][1]), 14) if len(panels) == 1 else 2.2
    figure, places = grid(len(panels), side, side)
    figure.suptitle(title, fontsize="medium")
    for place, (title, names, counts) in zip(places, panels, strict=True):
        _draw(place, counts, names)
        place.set_title(title, fontsize=9)
    return figure


def _draw(panel: Axes, counts: npt.NDArray[np.int64], names: Sequence[str]) -> None:
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    panel.set_xlabel("predicted")
    panel.set_ylabel("actual")
    shown = [short_name(name) for name in names] if len(names) <= _NAMED else []
    panel.set_xticks(range(len(shown)), shown, rotation=90, fontsize=8)
    panel.set_yticks(range(len(shown)), shown, fontsize=8)
    if len(names) <= _READABLE:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            text = f"{count:.4g}" if counts.max() < _COUNTED else f"{shares[row, column]:.0%}"
            panel.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
