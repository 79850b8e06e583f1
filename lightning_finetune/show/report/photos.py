"""Images with truth and prediction as parts of a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lightning_finetune.show.figures.content import Shown
from lightning_finetune.show.figures.predictions import colours_of, overlay

_SIDE = 224  # pixels that a cell of the page shows at most
_QUALITY = 80  # of JPEG, at which 25 photos stay below half a megabyte


@dataclass(frozen=True)
class Example:
    """One image of a gallery.

    Attributes:
        shown: The image in words.
        loss: Its loss, where it is known.
        file: Where it came from, where that is known.
    """

    shown: Shown
    loss: float | None = None
    file: str = ""

    @property
    def uri(self) -> str:
        """The image as a ``data:`` address; masks laid over it, the true one left of the predicted one."""
        masks = self.shown.masks
        image = self.shown.image
        photo = Image.fromarray(image if masks is None else np.hstack([overlay(image, mask) for mask in masks]))
        photo.thumbnail((_SIDE * (1 if masks is None else 2), _SIDE))
        held = io.BytesIO()
        photo.save(held, "JPEG", quality=_QUALITY)
        return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode()

    @property
    def alt(self) -> str:
        """The image for who cannot see it."""
        if self.shown.masks is not None:
            return f"Photo under its true mask, and under the predicted one: {self.shown.prediction}"
        return f"Photo of {self.shown.truth}, predicted {self.shown.prediction}"


@dataclass(frozen=True)
class Gallery:
    """Images of one section.

    Attributes:
        examples: In the order in which they are shown.
        classes: Names of the classes, for the colours of masks.
        note: What they are, or why there are none.
    """

    examples: Sequence[Example] = ()
    classes: Sequence[str] = ()
    note: str = ""

    @property
    def wide(self) -> bool:
        """Whether there are masks, which are shown side by side."""
        return any(example.shown.masks is not None for example in self.examples)

    @property
    def legend(self) -> list[tuple[str, str]]:
        """Colour and name of each class that occurs in a mask."""
        return colours_of((mask for example in self.examples for mask in example.shown.masks or ()), self.classes)
