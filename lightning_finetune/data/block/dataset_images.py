"""Images of somebody's dataset, which are not files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_finetune.data.block.rows import pair_of
from lightning_finetune.data.pixels.decode import ImageSource


class Pictures(Sequence[ImageSource]):
    """The images of a dataset of pairs, read when they are asked for."""

    def __init__(self, pairs: Any) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, item: Any) -> Any:
        return pair_of(self.pairs[int(item)])[0]
