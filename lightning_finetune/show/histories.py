"""A history that draws itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_finetune.engine.history import History
from lightning_finetune.show.figures.content import Band

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # heavy, and only its name is needed


class ShownHistory(History):
    """A history that a cell shows in a sentence, and draws on request."""

    def plot(self, bands: Sequence[Band] = ()) -> Figure:
        """Losses, metrics of validation and the learning rate of each layer group over the steps.

        Args:
            bands: The phases, to be drawn behind.
        """
        from lightning_finetune.show.figures.whole_run import draw_run  # only now, as it loads matplotlib

        self.flush()
        return draw_run(self, bands)

    def __repr__(self) -> str:
        epochs = f"{len(self.epochs)} epoch{'s' * (len(self.epochs) != 1)}"
        measured = f", measured: {', '.join(self.measured)}" if self.measured else ""
        return f"History: {len(self.steps)} steps of {epochs}{measured}"
