"""The charts of a run and of its range tests: what the report and the pictures draw, each by its own means."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lightning_finetune.engine.diagnosis import Points
from lightning_finetune.engine.history import History
from lightning_finetune.engine.range_test import DIVIDED, SKIP_END, Curve, scaled
from lightning_finetune.show.charts import Axis, Chart, Line, Shade, around
from lightning_finetune.show.figures.content import Band

COLOURS = ("c1", "c2", "c3", "c4")
"""Classes of the style sheet."""

_DECADES = 5  # of learning rates: as far as one cycle falls


class Span(NamedTuple):
    """A stretch of steps in which a layer group did not change: its place in percent, and what share of it trained."""

    left: float
    width: float
    share: float


class Strip(NamedTuple):
    """What trained of a layer group over the run, and what was planned."""

    name: str
    actual: list[Span]
    planned: list[Span]


class RunCharts:
    """The charts of one run, over the same steps.

    Args:
        history: What happened.
        planned: What was to happen, if anything was.
        bands: The phases, in order.
        made: Optimizer steps of the run so far.
    """

    def __init__(self, history: History, planned: History | None, bands: Sequence[Band], made: int) -> None:
        self.history, self.planned = history, planned
        self.end = max([made, 1, *(band.end for band in bands)])
        self.steps = Axis(0, self.end, whole=True)
        self.shades = [Shade(band.start, band.end, band.label) for band in bands]

    def losses(self) -> Chart:
        """Training loss, raw and smoothed, and what was measured on the validation set by the name of a loss."""
        raw = list(zip(self.history.steps, self.history.losses, strict=True))
        smooth = list(zip(self.history.steps, smoothed(self.history.losses), strict=True))
        measured = {name: points for name, points in self.history.measured.items() if "loss" in name}
        lines = [Line("", raw, "c1 faint"), Line("training loss, smoothed", smooth, "c1")]
        lines += [Line(name, points, css, dots=True) for (name, points), css in _coloured(measured, COLOURS[1:])]
        finite = [loss for loss in self.history.losses if math.isfinite(loss)]
        usual = np.quantile(finite or [math.nan], [0.05, 0.95])  # single batches far off must not flatten the curves
        y = around([*usual.tolist(), *(value for line in lines[1:] for _, value in line.points)])
        notes = [_not_finite([("training loss", raw), *measured.items()]), _more(len(measured), len(lines) - 2)]
        return self._chart("Loss", y, lines, note=" ".join(filter(None, notes)))

    def metrics(self, names: Iterable[str]) -> Chart | None:
        """The first of the metrics ``names``."""
        shown = {name: self.history.measured[name] for name in names}
        lines = [Line(name, points, css, dots=True) for (name, points), css in _coloured(shown, COLOURS)]
        y = around(value for line in lines for _, value in line.points)
        title = "Metrics of the validation set"
        return self._chart(title, y, lines, note=_more(len(shown), len(lines))) if lines else None

    def rates(self) -> Chart | None:
        """The learning rate of each layer group."""
        plan, count = self.planned, len(self.history.rates)
        columns = {} if plan is None else plan.rates
        peak = max(
            (rate for column in (*self.history.rates.values(), *columns.values()) for rate in column), default=0.0
        )
        if peak <= 0:
            return None
        lines = [Line("", self._over_steps(column, plan), "planned") for column in columns.values()]
        lines += [
            Line(name, self._over_steps(column), "wide", shade(place, count))
            for place, (name, column) in enumerate(self.history.rates.items())
        ]
        return self._chart("Learning rate of each layer group", Axis(peak / 10**_DECADES, 2 * peak, log=True), lines)

    def momentum(self) -> Chart | None:
        """SGD's momentum, or Adam's first beta."""
        return self._pair("Momentum", lambda history: history.momentum)

    def sizes(self) -> Chart | None:
        """The shorter side of the training images."""
        return self._pair(
            "Shorter side of the training images, in pixels",
            lambda history: [None if size is None else min(size) for size in history.sizes],
        )

    def strips(self) -> list[Strip]:
        """What trained of each layer group, the head first."""
        planned = {} if self.planned is None else self.planned.trained
        return [
            Strip(name, self._spans(self.history, shares), self._spans(self.planned, planned.get(name, ())))
            for name, shares in reversed(self.history.trained.items())
        ]

    def _chart(self, title: str, y: Axis, lines: Sequence[Line], note: str = "", low: bool = False) -> Chart:
        scale = " (log scale)" if y.log else ""
        return Chart(title + scale, self.steps, y, lines, self.shades, note=note, low=low)

    def _pair(self, title: str, column: Callable[[History], Sequence[float | None]]) -> Chart | None:
        actual = self._over_steps(column(self.history))
        planned = [] if self.planned is None else self._over_steps(column(self.planned), self.planned)
        values = [value for _, value in [*actual, *planned] if math.isfinite(value)]
        if not values:
            return None
        lines = [Line("", planned, "planned"), Line("", actual, "c1 wide")]
        return self._chart(title, around(values, 0.15), lines, low=True)

    def _over_steps(self, column: Iterable[float | None], of: History | None = None) -> list[tuple[float, float]]:
        steps = (of or self.history).steps
        return [(step, math.nan if value is None else value) for step, value in zip(steps, column, strict=True)]

    def _spans(self, history: History | None, shares: Sequence[float]) -> list[Span]:
        """Equal neighbours together; each step lasts until the next that is known."""
        if history is None or not shares:
            return []
        steps = history.steps
        begins = [0, *(place for place in range(1, len(shares)) if shares[place] != shares[place - 1])]
        after = steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else 1)
        ends = [*(steps[place] for place in begins[1:]), min(after, self.end)]
        return [
            Span(100 * steps[place] / self.end, 100 * (end - steps[place]) / self.end, shares[place])
            for place, end in zip(begins, ends, strict=True)
            if shares[place] > 0
        ]


def range_chart(curve: Curve, chosen: Sequence[float]) -> Chart:
    """Losses over the rate, what they suggest, and what was chosen.

    Args:
        curve: With its suggestions.
        chosen: A rate, or the lower and the upper one of a slice; empty where none was.
    """
    points = list(zip(curve.lrs, curve.losses, strict=True))
    smoothed = list(zip(curve.lrs, curve.smoothed, strict=True))
    smoothed = smoothed[: -scaled(SKIP_END, len(smoothed))] if curve.diverged and len(smoothed) > 2 else smoothed
    lines = [Line("loss of a step", points, "c1 faint", unjoined=True), Line("smoothed", smoothed, "c1")]
    for name, lr in curve.suggestions.items():
        where, said = (10 * lr, f"{name} {lr:.1e} (a tenth of here)") if name in DIVIDED else (lr, f"{name} {lr:.1e}")
        height = float(np.interp(math.log(where), np.log(curve.lrs), curve.smoothed))
        lines.append(Line(said, [(where, height)], f"dot {name}", dots=True))
    seen = [loss for _, loss in [*smoothed, *points[: len(smoothed)]] if math.isfinite(loss)] or [0.0, 1.0]
    low, high = (float(value) for value in np.quantile(seen, [0.0, 0.95]))
    space = 0.1 * (high - low) or 0.1
    words = f"chosen {' to '.join(f'{lr:.1e}' for lr in dict.fromkeys((min(chosen), max(chosen))))}" if chosen else ""
    shades = [Shade(min(chosen) / 1.04, max(chosen) * 1.04, words, "chosen")] if chosen else []
    x = Axis(curve.lrs[0], curve.lrs[-1], log=True)
    return Chart("Training loss", x, Axis(low - space, high + space), lines, shades, "learning rate")


def smoothed(losses: Sequence[float]) -> list[float]:
    """A running mean that reaches back over an eighth of the run, at most 19 steps; NaN where a loss is not finite."""
    import pandas as pd  # only now, as it takes half a second to load

    series = pd.Series(losses, dtype=float).where(np.isfinite)
    means = series.ewm(span=min(max(len(series) / 8, 1), 19), ignore_na=True).mean()
    return [float(value) for value in means.where(series.notna())]


def shade(place: int, count: int) -> str:
    """A colour between that of the input and that of the head."""
    return f"--depth:{100 * place / max(count - 1, 1):.0f}%"


def _coloured(
    measured: Mapping[str, Points], colours: Sequence[str]
) -> Iterable[tuple[tuple[str, list[tuple[float, float]]], str]]:
    named = [(name, [(float(step), value) for step, value in points]) for name, points in measured.items()]
    return zip(named, colours, strict=False)


def _more(count: int, drawn: int) -> str:
    return f"The first {drawn} of {count}; the table below has all." if count > drawn else ""


def _not_finite(columns: Iterable[tuple[str, Points]]) -> str:
    """Which values cannot be drawn."""
    bad_steps = {name: [step for step, value in points if not math.isfinite(value)] for name, points in columns}
    parts = [f"{name} at {len(steps)} steps, first at {steps[0]}" for name, steps in bad_steps.items() if steps]
    return f"Not finite, and so not drawn: {'; '.join(parts)}." if parts else ""
