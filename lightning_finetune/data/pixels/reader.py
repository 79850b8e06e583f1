"""From a source to pixels, past what the worker processes keep of it in memory they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_finetune.data.pixels.decode import CENTRE, Pixels, Resize, Size, can_move
from lightning_finetune.data.pixels.draws import Ints
from lightning_finetune.data.pixels.image_files import check_regular
from lightning_finetune.data.pixels.memory import SharedArrays
from lightning_finetune.errors import DataError

_NOTHING = np.empty(0, np.uint8)


@dataclass
class Reader:
    """Reads the images of a split, or its masks; where ``kept`` is given, each is decoded once for a size.

    Kept is what the model sees, where that is the same in every epoch, else the whole decoded image: the pixels are
    the same as without.

    Args:
        sources: Of all splits.
        rows: Of this split, positions in ``sources``, ``[N]``.
        decode: A source and a size to all pixels that are needed for it.
        fit: A source or such pixels, a size, the way to get to it and a position of the crop to the pixels seen.
        resize: That way.
        moves: Whether the position differs from epoch to epoch.
        kept: Memory for N arrays.
    """

    sources: Sequence[Any]
    rows: Ints
    decode: Callable[[Any, Size], Pixels]
    fit: Callable[[Any, Size, Resize, tuple[float, float]], Pixels]
    resize: Resize
    moves: bool
    kept: SharedArrays | None = None

    def pixels(self, item: int, size: Size, position: tuple[float, float]) -> Pixels:
        """What is seen of an item, ``[h, w, channels]`` or ``[h, w]``."""
        image = _NOTHING if self.kept is None else self.kept.read(item, size)
        if image is None:
            image = self._keep(item, size)
        if not image.size:
            return self.fit(self.sources[self.rows[item]], size, self.resize, position)
        return image if image.shape[:2] == size else self.fit(image, size, self.resize, position)

    def gone(self) -> list[str]:
        """What is wrong with sources that are files, and there no more, a sentence each."""
        files = (source for row in self.rows.tolist() if isinstance(source := self.sources[row], (str, Path)))
        return [str(error) for file in files if (error := _absence(file)) is not None]

    def _keep(self, item: int, size: Size) -> Pixels:
        image = self._lasting(self.sources[self.rows[item]], size)
        if self.kept is not None:
            self.kept.write(item, size, image)
        # An array of more bits has lost the mode of its file, by which it would be resized.
        return image if image.dtype == np.uint8 or image.shape[:2] == size else _NOTHING

    def _lasting(self, source: Any, size: Size) -> Pixels:
        """Pixels that serve every epoch."""
        if not self.moves:
            return self.fit(source, size, self.resize, CENTRE)
        full = self.decode(source, size)
        if full.shape[:2] == size or can_move(full.shape, size, self.resize):
            return full
        return self.fit(full, size, self.resize, CENTRE)


def _absence(file: str | Path) -> DataError | None:
    try:
        check_regular(file)
    except DataError as error:
        return error
    return None
