"""A figure that a cell of a notebook shows."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class CellFigure(Figure):
    """A matplotlib figure that shows itself where it is the last line of a cell, whether or not pyplot was imported."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=80)
        return picture.getvalue()
