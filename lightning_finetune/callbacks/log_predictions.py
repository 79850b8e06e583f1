"""A fixed sample of validation images with what the model says about them."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lightning_finetune.callbacks._figures import save_figure, save_samples
from lightning_finetune.callbacks._phase_ends import ends_phase
from lightning_finetune.callbacks._samples import Sample, class_names, describe
from lightning_finetune.errors import DataError, FinetuneError
from lightning_finetune.tasks.batch import images_of, target_of


class LogPredictions(Callback):
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
        if num < 1:
            raise FinetuneError(f"Expected `num` of LogPredictions to be at least 1, got {num}.")
        self.num = num
        self.seed = seed
        self._sample: Sample | None = None
        self._complete = False

    @override
    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._complete:
            self._sample = Sample(self.num, self.seed)

    @override
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._complete or self._sample is None or dataloader_idx or not trainer.is_global_zero:
            return
        key = getattr(pl_module, "target_key", "label")
        try:
            self._sample.offer(images_of(batch), target_of(batch, key))
        except DataError as error:
            self._give_up(str(error))

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or self._sample is None or not trainer.is_global_zero:
            return
        self._complete = True
        if trainer.state.fn == TrainerFn.FITTING and not ends_phase(trainer):
            return
        try:
            self._show(trainer, pl_module, self._sample)
        except DataError as error:
            self._give_up(str(error))

    def _show(self, trainer: pl.Trainer, module: pl.LightningModule, sample: Sample) -> None:
        from lightning_finetune.pictures import draw_predictions  # only now, as it loads matplotlib

        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            logits = module(sample.images)
        shown = describe(trainer, module, sample, logits)
        figure = draw_predictions(shown, f"after epoch {trainer.current_epoch}")
        save_figure(trainer, "predictions", figure, dpi=90)
        save_samples(trainer, "samples", shown, class_names(trainer, module, logits.shape[1]))

    def _give_up(self, why: str) -> None:
        rank_zero_warn(f"LogPredictions shows nothing: {why}")
        self._sample, self._complete = None, True
