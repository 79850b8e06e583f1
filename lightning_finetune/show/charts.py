"""Line charts as SVG that stretches to any width.

The SVG holds lines alone, in a box that is stretched to the width of the page (strokes keep theirs). Text and dots lie
over it as HTML, placed by percentages, so that they are neither stretched nor shrunk. All colours are those of the
page's style sheet.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from matplotlib.ticker import LogLocator, MaxNLocator

WIDTH, HEIGHT = 1000, 300
"""Of the box of the SVG; the page gives it another."""


class Tick(NamedTuple):
    """A number beside an axis, and its place in percent."""

    place: float
    label: str


class Dot(NamedTuple):
    """A point with its place in percent from the left and the top, and what it says when it is pointed at."""

    left: float
    top: float
    says: str
    css: str


class Shade(NamedTuple):
    """A part of the horizontal axis that lies behind the lines; with a class of its own it is named in the legend."""

    start: float
    end: float
    name: str = ""
    css: str = ""
    style: str = ""


@dataclass(frozen=True)
class Axis:
    """What an axis spans.

    Attributes:
        low: At the left, or the bottom.
        high: At the right, or the top.
        log: Whether equal distances are equal factors.
        whole: Whether only whole numbers are marked.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def at(self, value: float) -> float:
        """The place of ``value``, 0 to 1; NaN for one that is not finite, or has no logarithm."""
        if not math.isfinite(value) or (self.log and value <= 0):
            return math.nan
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return (value - low) / ((high - low) or 1.0)

    def ticks(self, most: int = 5) -> list[Tick]:
        """At most about so many round numbers."""
        few = self.log and self.high < 300 * self.low  # not even three powers of ten
        marks = LogLocator(subs=(1, 2, 5) if few else (1,), numticks=most)
        plain = MaxNLocator(most, integer=self.whole, steps=[1, 2, 2.5, 5, 10], min_n_ticks=2)
        locator = marks if self.log else plain
        values = [float(value) for value in locator.tick_values(self.low, self.high)]
        return [Tick(100 * self.at(value), _mark(value)) for value in values if self.low <= value <= self.high]


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: In the legend; empty for one that is not named.
        points: Horizontal and vertical value; the line is broken where one cannot be shown.
        css: Classes of the style sheet.
        style: Further style, such as a shade within a scale of colours.
        dots: Whether each point says its value when it is pointed at.
        unjoined: Whether there are only the points, without the line.
    """

    name: str
    points: Sequence[tuple[float, float]]
    css: str = ""
    style: str = ""
    dots: bool = False
    unjoined: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines over one pair of axes.

    Attributes:
        title: What is drawn, in a few words.
        x: The horizontal axis.
        y: The vertical axis.
        lines: In the order in which they are painted.
        shades: Behind them.
        x_label: What the horizontal axis counts.
        note: What the eye cannot see, in a sentence.
        low: Whether half the height is enough.
    """

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    shades: Sequence[Shade] = ()
    x_label: str = "optimizer step"
    note: str = ""
    low: bool = False

    @property
    def legend(self) -> list[Line | Shade]:
        """What has a name of its own."""
        return [*(line for line in self.lines if line.name), *(shade for shade in self.shades if shade.css)]

    @property
    def spans(self) -> list[tuple[float, float, Shade]]:
        """Left end and width of each shade, in percent."""
        ends = [[100 * min(max(self.x.at(value), 0), 1) for value in (each.start, each.end)] for each in self.shades]
        return [(left, right - left, each) for (left, right), each in zip(ends, self.shades, strict=True)]

    def path(self, line: Line) -> str:
        """The ``d`` of an SVG path."""
        places = [(WIDTH * self.x.at(x), HEIGHT * (1 - self.y.at(y))) for x, y in line.points]
        if line.unjoined:
            return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places if math.isfinite(x + y))
        return "".join(_segments(places))

    def dots(self) -> list[Dot]:
        """Of all lines that have some."""
        places = [
            (100 * self.x.at(x), 100 * (1 - self.y.at(y)), f"{line.name} {y:.4g} at {self.x_label} {x:g}", line.css)
            for line in self.lines
            if line.dots
            for x, y in line.points
        ]
        return [Dot(*dot) for dot in places if math.isfinite(dot[0] + dot[1]) and 0 <= dot[1] <= 100]


def _segments(places: Sequence[tuple[float, float]]) -> Iterable[str]:
    """Of each unbroken part its points, but those within a level stretch."""
    joined = False
    for index, (x, y) in enumerate(places):
        if not math.isfinite(x + y):
            joined = False
            continue
        ends = [*places[index - 1 : index], *places[index + 1 : index + 2]]
        if joined and len(ends) == 2 and all(abs(other - y) < 0.05 for _, other in ends):
            continue
        yield f"L{x:.1f} {y:.1f}" if joined else f"M{x:.1f} {y:.1f}h0"  # a point alone is seen too
        joined = True


def around(values: Iterable[float], margin: float = 0.08) -> Axis:
    """A vertical axis that holds all finite ``values``, logarithmic where they lie far apart."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if 0 < 50 * low < high:
        return Axis(low / 1.5, high * 1.5, log=True)
    space = margin * (high - low) or 0.1 * abs(high) or 0.1
    return Axis(low - space, high + space)


def _mark(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-") if 0 < value < 0.01 else short(value)


def short(value: float) -> str:
    """A number in four digits, ``1e-5`` and not ``1e-05``."""
    return re.sub(r"e\+?(-?)0?", r"e\1", f"{value:.4g}")
