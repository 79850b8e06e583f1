"""A fixed sample of validation images with what the model says about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lightning_finetune.engine.argument_types import check_types
from lightning_finetune.errors import DataError, FinetuneError
from lightning_finetune.run.artifacts import save_figure, save_samples, shown_state
from lightning_finetune.run.phase_ends import ends_phase
from lightning_finetune.run.validation_images import LookingCallback
from lightning_finetune.show.figures.content import Shown


class LogPredictions(LookingCallback):
    """Show what the model says about the same few validation images, again and again.

    Writes ``predictions.png`` into the run's directory at the end of each phase and of the run: images with their truth
    and the prediction, wrong ones framed in red. Weights & Biases gets the same images as a table too, masks as layers.
    Works with any module whose ``forward`` takes the images of a batch and gives logits ``[B, C]`` or ``[B, C, H, W]``;
    with others it says so once and shows nothing.

    Args:
        num: How many images.
        seed: Of their choice among the validation images of the first process.

    Raises:
        FinetuneError: ``num`` below 1.
    """

    def __init__(self, num: int = 16, seed: int = 42) -> None:
        check_types(LogPredictions.__init__, locals())
        if num < 1:
            raise FinetuneError(f"Expected `num` of LogPredictions to be at least 1, got {num}.")
        super().__init__(num, seed)

    @override
    def is_wanted(self, trainer: pl.Trainer) -> bool:
        return trainer.state.fn != TrainerFn.FITTING or ends_phase(trainer)

    @override
    def show(self, trainer: pl.Trainer, shown: Sequence[Shown], classes: Sequence[str]) -> None:
        from lightning_finetune.show.figures.predictions import draw_predictions  # only now, as it loads matplotlib

        figure = draw_predictions(shown, f"Predictions {shown_state(trainer)}", classes)
        save_figure(trainer, "predictions", figure, dpi=90)
        save_samples(trainer, "samples", shown, classes)

    @override
    @contextmanager
    def complaining(self) -> Iterator[None]:
        """The sample complains but once."""
        try:
            yield
        except DataError as error:
            rank_zero_warn(f"LogPredictions shows nothing: {error}")
