"""One figure of a range test: the losses over the rate, every suggestion, and the rates that were chosen."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from lightning_finetune.engine.range_test import Curve
from lightning_finetune.show.curves import range_chart
from lightning_finetune.show.figures.cell import CellFigure
from lightning_finetune.show.figures.lines import draw_chart


def draw_curve(curve: Curve, chosen: Sequence[float] = ()) -> Figure:
    """Raw and smoothed loss over the logarithm of the rate; a dot at each suggestion, the chosen rates shaded.

    Args:
        curve: With its suggestions.
        chosen: A rate, or the lower and the upper one of a slice.
    """
    figure = CellFigure(figsize=(9, 4.5), layout="constrained")
    draw_chart(figure.subplots(), range_chart(curve, chosen))
    return figure
