"""Charts of the report as matplotlib draws them."""

from __future__ import annotations

import math

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes

from lightning_finetune.show.charts import Chart, Line
from lightning_finetune.show.curves import shade

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
"""By the classes of the style sheet."""


def draw_chart(panel: Axes, chart: Chart) -> None:
    """Draw a chart into a panel.

    Args:
        panel: Empty.
        chart: What to draw; its phases are left to :func:`~lightning_finetune.show.figures.whole_run.draw_charts`.
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
    if not line.dots:
        return line.name if line.style in ("", shade(0, 2), shade(1, 2)) else None
    return line.name if "dot" in line.css.split() else f"{line.name}  {heights[-1]:.4g}"


def _colour(line: Line) -> object:
    """A shade between that of the input and that of the head, or the colour of a class."""
    if line.style:
        depth = float(line.style.removeprefix("--depth:").rstrip("%")) / 100
        return colormaps["viridis"](np.interp(depth, [0, 1], [0.85, 0.0]))
    return next(_COLOURS[word] for word in line.css.split() if word in _COLOURS)
