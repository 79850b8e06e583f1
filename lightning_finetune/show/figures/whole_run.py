"""Figures of a whole run, of its schedule before it begins, and of a range test, with the phases behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_finetune.engine.history import LIMIT, History, planned
from lightning_finetune.engine.plan import Plan
from lightning_finetune.engine.range_test import Curve
from lightning_finetune.show.charts import Chart
from lightning_finetune.show.curves import RunCharts, range_chart
from lightning_finetune.show.figures.cell import CellFigure
from lightning_finetune.show.figures.content import Band
from lightning_finetune.show.figures.lines import draw_chart

_SHADE = "#f0f2f5"
_LETTER, _MOST_LINES = 0.011, 4  # of the width of a panel


def draw_run(history: History, bands: Sequence[Band] = (), title: str = "") -> Figure:
    """Losses above, then the metrics of validation, then the learning rate of each layer group.

    Args:
        history: What has been recorded, flushed.
        bands: The phases, in order.
        title: Above all, such as the epoch.
    """
    charts = RunCharts(history, None, bands, max(history.steps, default=0) + 1)
    metrics = charts.metrics(name for name in history.measured if "loss" not in name)
    figure = draw_charts([charts.losses(), metrics, charts.rates()], bands)
    figure.suptitle(title, fontsize="medium", ha="right", x=0.99)
    return figure


def draw_charts(charts: Sequence[Chart | None], bands: Sequence[Band]) -> Figure:
    """One chart below the other over the same steps, with the phases behind them; those that are None are left out."""
    shown = [chart for chart in charts if chart is not None]
    figure = CellFigure(figsize=(9, 2 + 2 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0].tolist()
    for panel, chart in zip(panels, shown, strict=True):
        draw_chart(panel, chart)
    _finish(panels, bands)
    return figure


def _finish(panels: Sequence[Axes], bands: Sequence[Band]) -> None:
    """Put the phases behind panels that share their steps, with their names above the first."""
    for panel in panels:
        for band in bands[::2]:
            panel.axvspan(band.start, band.end, color=_SHADE, zorder=0)
        if bands:
            panel.set_xlim(bands[0].start, bands[-1].end)
        panel.label_outer()
    lines = _lines(bands)
    for place, band in enumerate(bands):
        where = ((band.start + band.end) / 2, 1.02 + 0.08 * (place % lines))
        panels[0].text(*where, band.label, transform=panels[0].get_xaxis_transform(), ha="center", va="bottom")
    panels[-1].set_xlabel("optimizer step")


def _lines(bands: Sequence[Band]) -> int:
    """On how many lines the names must stand so that those of short phases do not touch."""
    steps = max(bands[-1].end - bands[0].start, 1) if bands else 1

    def touch(one: Band, other: Band) -> bool:
        apart = (other.start + other.end - one.start - one.end) / 2
        return apart / steps < _LETTER * (len(one.label) + len(other.label)) / 2

    fitting = (lines for lines in range(1, _MOST_LINES) if not any(map(touch, bands, bands[lines:])))
    return next(fitting, _MOST_LINES)


def draw_curve(curve: Curve, chosen: Sequence[float] = ()) -> Figure:
    """Raw and smoothed loss over the logarithm of the rate; a dot at each suggestion, the chosen rates shaded.

    Args:
        curve: With its suggestions.
        chosen: A rate, or the lower and the upper one of a slice.
    """
    figure = CellFigure(figsize=(9, 4.5), layout="constrained")
    draw_chart(figure.subplots(), range_chart(curve, chosen))
    return figure


def draw_plan(plan: Plan, names: Sequence[str], bands: Sequence[Band]) -> Figure:
    """The learning rate of each layer group over the whole run, and the momentum below.

    Args:
        plan: The schedule.
        names: Of the layer groups, from the input to the head.
        bands: The phases, in order.
    """
    history = planned([plan], names, range(0, len(plan), math.ceil(len(plan) / LIMIT)))
    charts = RunCharts(history, None, bands, len(plan))
    return draw_charts([charts.rates(), charts.momentum()], bands)
