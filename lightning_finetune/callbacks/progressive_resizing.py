"""Progressive resizing: train on small images first, then on larger ones."""

from __future__ import annotations

import lightning.pytorch as pl
from typing_extensions import override

from lightning_finetune.engine.argument_types import check_types
from lightning_finetune.engine.phases import Phase, spans
from lightning_finetune.engine.resize import MIN_SIZE, Size, check_min_size
from lightning_finetune.errors import PhaseError
from lightning_finetune.run.phased_callback import PhasedCallback


class ProgressiveResizing(PhasedCallback):
    """Change the size of the training images at given epochs; validation stays at the data's own size.

    With this package's data the workers decode at the new size, so that small images save time everywhere. With other
    data the callback resizes batches on the device, masks by nearest neighbour. It rounds sizes to multiples of 32
    pixels. Before the first epoch it tries each size once, the largest first, to find out at once if the model or the
    memory does not allow it.

    Args:
        sizes: The size from which epoch on: the shorter side, or height and width, in pixels. The key 0 is required.
        min_size: The smallest side that is not an error; the lessons' rule is 64.

    Raises:
        PhaseError: Sizes that are too small or too late, or at which the model cannot train.

    Example::

        Trainer(max_epochs=12, callbacks=[ProgressiveResizing({0: 128, 8: 224})])
    """

    def __init__(self, sizes: dict[int, int | Size], min_size: int = MIN_SIZE) -> None:
        check_types(ProgressiveResizing.__init__, locals(), PhaseError)
        super().__init__(min_size=min_size)
        self.sizes = {epoch: tuple(size) if isinstance(size, list) else size for epoch, size in sizes.items()}
        for size in self.sizes.values():
            check_min_size(size, min_size)
        self._spans = spans(self.sizes, "the sizes")

    @override
    def phases(self, trainer: pl.Trainer) -> list[Phase]:
        """One phase per size, with sizes alone."""
        return [Phase(epochs, train=None, lr=None, size=size) for epochs, size in self._spans]
