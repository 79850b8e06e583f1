"""What pictures are drawn of, apart from the drawing: it needs matplotlib, which need not be loaded to describe it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Band:
    """A phase behind the curves.

    Attributes:
        start: First optimizer step.
        end: One past the last.
        label: What it is called.
    """

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Shown:
    """One image of the grid.

    Attributes:
        image: ``[h, w, 3]``.
        truth: In words.
        prediction: In words.
        wrong: Whether they disagree; None where that is a matter of degree.
        masks: True and predicted class ids, ``[h, w]`` each, laid over the image side by side.
    """

    image: Pixels
    truth: str
    prediction: str
    wrong: bool | None = None
    masks: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None
