"""Figures of a whole run, of its schedule before it begins, and of a range test, with the phases behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_finetune.engine.history import LIMIT, History, planned
from lightning_finetune.engine.plan import Plan
from lightning_finetune.engine.range_test import Curve
from lightning_finetune.show.charts import Chart, Line
from lightning_finetune.show.curves import RunCharts, range_chart, shade
from lightning_finetune.show.figures.cell import CellFigure, short_name
from lightning_finetune.show.figures.content import Band

# By the classes of the style sheet.
_COLOURS = {
    "c1": "#4477aa",
    "c2": "#cc3311",
    "c3": "#228833",
    "c4": "#aa3377",
    "steep": "#cc3311",
    "valley": "#228833",
    "slide": "#aa3377",
    "minimum": "#66ccee",
    "elbow": "#ee7733",
    "planned": "#444444",
}
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
        _draw_chart(panel, chart)
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
    _draw_chart(figure.subplots(), range_chart(curve, chosen))
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


def _draw_chart(panel: Axes, chart: Chart) -> None:
    """Draw a chart into a panel.

    Args:
        panel: Empty.
        chart: What to draw; its phases are left to :func:`draw_charts`.
    """
    for line in filter(lambda line: line.points, chart.lines):
        _draw_line(panel, chart, line)
    for part in chart.shades:
        if part.css:
            panel.axvspan(part.start, part.end, color="#ccbb44", alpha=0.35, label=part.name, linewidth=0)
    for name, axis in (("x", chart.x), ("y", chart.y)):
        if axis.log:
            panel.set(**{f"{name}scale": "log"})
        panel.set(**{f"{name}lim": (axis.low, axis.high)})
    panel.set_xlabel(chart.x_label)
    panel.set_ylabel(chart.title.removesuffix(" (log scale)"), fontsize="small")
    panel.grid(axis="y", alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(frameon=False, loc="best", fontsize="small")


def _draw_line(panel: Axes, chart: Chart, line: Line) -> None:
    words = line.css.split()
    known = [x for x, y in line.points if math.isfinite(chart.x.at(x) + chart.y.at(y))]
    heights = [y if math.isfinite(chart.y.at(y)) else math.nan for _, y in line.points]
    panel.plot(
        [x for x, _ in line.points],
        heights,
        "o" if line.unjoined or "dot" in words else "-o" if line.dots else "-",
        color=_colour(line),
        alpha=0.3 if "faint" in words else 1.0,
        linewidth=0.8 if {"faint", "planned"} & {*words} else 1.5,
        markersize=2 if line.unjoined else 7 if "dot" in words else 4,
        label=_label(line, heights) if line.name and known else None,
    )


def _label(line: Line, heights: list[float]) -> str | None:
    """With the last value; of layer groups the first and the last have one."""
    name = short_name(line.name)
    if not line.dots:
        return name if line.style in ("", shade(0, 2), shade(1, 2)) else None
    return name if "dot" in line.css.split() else f"{name}  {heights[-1]:.4g}"


def _colour(line: Line) -> object:
    """A shade between that of the input and that of the head, or the colour of a class."""
    if line.style:
        depth = float(line.style.removeprefix("--depth:").rstrip("%")) / 100
        return colormaps["viridis"](np.interp(depth, [0, 1], [0.85, 0.0]))
    return next(_COLOURS[word] for word in line.css.split() if word in _COLOURS)
