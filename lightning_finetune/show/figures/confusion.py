"""Confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_READABLE = 25  # classes up to which numbers fit into their cells
_COUNTED = 10_000  # from which on, as of pixels, shares of the true class stand in place of counts
_NAMED = 60  # classes up to which names do not overlap


def draw_confusion(counts: npt.NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """True by predicted class, shaded by the share of the true class; of labels one small matrix each.

    Args:
        counts: ``[C, C]``, or ``[L, 2, 2]`` for labels.
        classes: Their names; left out where they would overlap, as are the numbers before.
    """
    if counts.ndim == 2:
        side = min(3 + 0.4 * len(classes), 14)
        figure = Figure(figsize=(side, side), layout="constrained")
        _draw(figure.subplots(), counts, classes)
        return figure
    columns = int(np.ceil(np.sqrt(len(counts))))
    rows = -(-len(counts) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.2 * rows), layout="constrained")
    for number, panel in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if number < len(counts):
            _draw(panel, counts[number], ("absent", "present"))
            panel.set_title(classes[number], fontsize=9)
        else:
            panel.set_axis_off()
    return figure


def _draw(panel: Axes, counts: npt.NDArray[np.int64], names: Sequence[str]) -> None:
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    panel.set_xlabel("predicted")
    panel.set_ylabel("actual")
    places = range(len(names)) if len(names) <= _NAMED else ()
    panel.set_xticks(places, names if places else (), rotation=90, fontsize=8)
    panel.set_yticks(places, names if places else (), fontsize=8)
    if len(names) <= _READABLE:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            text = f"{count:.4g}" if counts.max() < _COUNTED else f"{shares[row, column]:.0%}"
            panel.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
