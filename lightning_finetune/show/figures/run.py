"""One figure of a whole run: its losses, its metrics, its learning rates, and the phases behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_finetune.engine.history import History
from lightning_finetune.show.figures.shown import Band

_TRAIN, _VALID, _SHADE = "#4477aa", "#cc3311", "#f0f2f5"
_OTHERS = ("#228833", "#aa3377", "#ccbb44", "#66ccee")
_LETTER, _MOST_LINES = 0.011, 4  # of the width of a panel
_DECADES = 5  # of learning rates: as far as one cycle falls


def draw_run(history: History, bands: Sequence[Band] = (), title: str = "") -> Figure:
    """Losses above, then the metrics of validation, then the learning rate of each layer group.

    Args:
        history: What has been recorded, flushed.
        bands: The phases, in order.
        title: Above all, such as the epoch.
    """
    losses = {name: points for name, points in history.measured.items() if "loss" in name}
    metrics = {name: points for name, points in history.measured.items() if name not in losses}
    figure = Figure(figsize=(9, 8 if metrics else 6), layout="constrained")
    figure.suptitle(title, fontsize="medium", ha="right", x=0.99)
    panels = figure.subplots(3 if metrics else 2, 1, sharex=True)
    _draw_losses(panels[0], history, losses)
    if metrics:
        _draw_metrics(panels[1], metrics)
    draw_rates(panels[-1], history)
    finish(panels, bands)
    return figure


def finish(panels: Sequence[Axes], bands: Sequence[Band]) -> None:
    """Put the phases behind panels that share their steps, with their names above the first."""
    for panel in panels:
        dress(panel, bands)
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


def _draw_losses(panel: Axes, history: History, measured: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    panel.plot(history.steps, history.losses, color=_TRAIN, alpha=0.25, linewidth=0.8)
    smooth = smoothed(history.losses)
    panel.plot(history.steps, smooth, color=_TRAIN, label="train_loss, smoothed")
    for name, points in measured.items():
        panel.plot(*zip(*points, strict=True), color=_VALID, marker="o", markersize=4, label=name)
    seen = [value for points in measured.values() for _, value in points] + smooth
    finite = [value for value in seen if np.isfinite(value)]
    if finite:  # single batches may lie far above; they must not flatten the curve
        margin = 0.08 * (max(finite) - min(finite)) or 0.1
        panel.set_ylim(min(finite) - margin, max(finite) + margin)
    panel.set_ylabel("loss")


def smoothed(losses: Sequence[float]) -> list[float]:
    """A running mean that reaches back over an eighth of the run, at most 19 steps; NaN where a loss is not finite."""
    import pandas as pd  # only now, as it takes half a second to load

    series = pd.Series(losses, dtype=float).where(np.isfinite)
    means = series.ewm(span=min(max(len(series) / 8, 1), 19), ignore_na=True).mean()
    return [float(value) for value in means.where(series.notna())]


def _draw_metrics(panel: Axes, metrics: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    for (name, points), color in zip(metrics.items(), _OTHERS, strict=False):
        panel.plot(
            *zip(*points, strict=True), color=color, marker="o", markersize=4, label=f"{name}  {points[-1][1]:.4g}"
        )
    panel.set_ylabel("validation")


def draw_rates(panel: Axes, history: History) -> None:
    """The learning rate of each layer group, from light at the input to dark at the head."""
    shades = colormaps["viridis"](np.linspace(0.85, 0.0, max(len(history.rates), 1)))
    named = {0, len(history.rates) - 1}
    for place, (name, column) in enumerate(history.rates.items()):
        rates = np.array([rate if rate > 0 else np.nan for rate in column])
        label = name if place in named else None
        panel.plot(history.steps, rates, color=shades[place], linewidth=1.2, label=label)
    peak = max((rate for column in history.rates.values() for rate in column), default=0.0)
    if peak > 0:
        panel.set_yscale("log")
        panel.set_ylim(peak / 10**_DECADES, peak * 2)
    panel.set_ylabel("learning rate")


def dress(panel: Axes, bands: Sequence[Band]) -> None:
    """Put the phases behind a panel, and give it its legend."""
    for place, band in enumerate(bands):
        if place % 2 == 0:
            panel.axvspan(band.start, band.end, color=_SHADE, zorder=0)
    if bands:
        panel.set_xlim(bands[0].start, bands[-1].end)
    panel.grid(axis="y", alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(frameon=False, loc="best", fontsize="small")
