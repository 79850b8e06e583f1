"""Figures that a cell of a notebook shows."""

from __future__ import annotations

import io
import math

from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.text import Text
from typing_extensions import override


class CellFigure(Figure):
    """A matplotlib figure that shows itself where it is the last line of a cell, whether or not pyplot was imported.

    A dollar in the name of a class is one, and begins no formula.
    """

    @override
    def draw(self, renderer: RendererBase) -> None:
        for text in self.findobj(Text):
            if isinstance(text, Text) and "$" in text.get_text() and "mathdefault" not in text.get_text():
                text.set_parse_math(False)  # what matplotlib writes at a log axis stays a formula
        super().draw(renderer)

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=80)
        return picture.getvalue()


_LETTERS = 40  # of a name at an axis or in a legend


def short_name(name: str) -> str:
    """A name on one line, without its middle where it is long; legends leave out what begins with an underscore."""
    line = " ".join(name.split())
    if len(line) > _LETTERS:
        line = f"{line[: _LETTERS - 16]}…{line[-15:]}"
    return f" {line}" if line.startswith("_") else line


def grid(count: int, width: float, height: float, above: float = 0.0) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels, about as many in a row as in a column.

    Args:
        count: At least one.
        width: Of each, in inches.
        height: Of each.
        above: Height of what stands over all of them.
    """
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    figure = CellFigure(figsize=(width * columns, height * rows + above), layout="constrained")
    panels: list[Axes] = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for panel in panels[count:]:
        panel.set_axis_off()
    return figure, panels[:count]
