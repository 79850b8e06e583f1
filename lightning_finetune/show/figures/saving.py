"""Figures to files; scripts that no font of the machine has are said once."""

from __future__ import annotations

import re
import warnings
from functools import cache
from pathlib import Path

from matplotlib.figure import Figure

_MISSING = re.compile(r"Glyph \d+ \(\\N\{(\w+).*missing from font")


def save(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure as PNG.

    Args:
        figure: To write; matplotlib warns of each letter that its fonts lack, each time.
        path: Of the file.
        dpi: Pixels an inch.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(path, dpi=dpi)
    for warning in caught:
        script = _MISSING.match(str(warning.message))
        if script is None:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        else:
            _say(script[1])


@cache
def _say(script: str) -> None:
    warnings.warn(
        f"Pictures show boxes for letters such as {script}, which no font of matplotlib has: install one, such as Noto "
        "Sans, and name it: matplotlib.rcParams['font.sans-serif'].",
        stacklevel=3,
    )
