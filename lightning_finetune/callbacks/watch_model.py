"""Histograms of gradients and parameters in Weights & Biases, also of layers that are unfrozen later."""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lightning_finetune.engine.argument_types import check_types
from lightning_finetune.run.artifacts import wandb_loggers


class WatchModel(Callback):
    """``wandb.watch`` that follows unfreezing.

    W&B looks at the parameters that train only when it is called, so this callback calls it again after each change of
    what trains. It works on the first process, for every ``WandbLogger``; without one it says so once.

    Args:
        log: ``"gradients"``, ``"parameters"`` or ``"all"``.
        log_freq: Batches between two histograms.
    """

    def __init__(self, log: Literal["gradients", "parameters", "all"] = "gradients", log_freq: int = 100) -> None:
        check_types(WatchModel.__init__, locals())
        self._what, self._every = log, log_freq  # Lightning puts a method `log` on every callback
        self._watched: list[int] | None = None

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._watched = None
        if not wandb_loggers(trainer):
            rank_zero_warn("WatchModel does nothing: it needs a WandbLogger.")

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx and self._watched is not None:
            return
        trained = [place for place, param in enumerate(pl_module.parameters()) if param.requires_grad]
        if trained != self._watched and trainer.is_global_zero:
            for logger in wandb_loggers(trainer):
                if self._watched is not None:
                    logger.experiment.unwatch(pl_module)
                # idx: else each call after the first would put another prefix before the names.
                logger.experiment.watch(pl_module, None, self._what, self._every, idx=0, log_graph=False)
        self._watched = trained

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and self._watched is not None:
            for logger in wandb_loggers(trainer):
                logger.experiment.unwatch(pl_module)
