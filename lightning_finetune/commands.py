"""What the command can do beside Lightning's own subcommands."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint

from lightning_finetune.callbacks import FineTune, LogPredictions, PlotRun, _trainer
from lightning_finetune.callbacks.find_only import FindOnly
from lightning_finetune.errors import CheckpointError
from lightning_finetune.phases import DEFAULT_LR
from lightning_finetune.range_test import Found, known_high


class CommandTrainer(Trainer):
    """Lightning's Trainer with the further subcommands of ``lightning-finetune``."""

    def lr_find(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        unfrozen: bool = False,
        ckpt: str | None = None,
    ) -> Found:
        """Sweep the learning rate without training; prints the suggestions, and saves the curve.

        Args:
            model: The module.
            datamodule: Its data.
            unfrozen: Sweep with all layers training, as after an unfreezing; else with the head alone.
            ckpt: Checkpoint whose weights to begin with.

        Raises:
            CheckpointError: ``ckpt`` cannot be read, or is of another model.
        """
        if ckpt is not None:
            load_weights(model, ckpt)
        callbacks = _trainer.callbacks(self)
        plans = [callback for callback in callbacks if isinstance(callback, FineTune)]
        find = FindOnly(unfrozen, _upper_rate(plans), plans[0].groups if plans else None)
        dropped = (FineTune, LogPredictions, PlotRun, Checkpoint)
        self.callbacks: list[Callback] = [*(one for one in callbacks if not isinstance(one, dropped)), find]
        self.fit_loop.max_epochs = 1
        self.limit_val_batches = 0
        self.num_sanity_val_steps = 0
        self.fit(model, datamodule=datamodule)
        if find.found is None:
            raise CheckpointError("The range test did not run: the data gave no training batch.")
        return find.found


def _upper_rate(plans: list[FineTune]) -> float:
    """The rate that the configured phases give unfrozen layers."""
    unfrozen = [phase.lr for plan in plans for phase in plan.given if phase.train != "head" and phase.lr is not None]
    return known_high(unfrozen[0], unfrozen=True) if unfrozen else DEFAULT_LR / 10


def load_weights(model: LightningModule, path: str | Path) -> None:
    """Give ``model`` the weights of a checkpoint.

    Raises:
        CheckpointError: The file cannot be read, or its weights are those of another model.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        model.load_state_dict(state)
    except (OSError, KeyError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"Expected `ckpt` to be a checkpoint of this {type(model).__name__}, got {str(path)!r}: "
            f"{type(error).__name__}: {reason}"
        ) from error
