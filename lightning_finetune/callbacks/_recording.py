"""What callbacks that look back on a run share: its rates and losses by step, and what was measured between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from typing_extensions import override

from lightning_finetune.callbacks import _trainer
from lightning_finetune.history import History


class RecordingCallback(Callback):
    """Keeps a :class:`~lightning_finetune.history.History`, also over a resume.

    Losses stay on their device until the end of an epoch, so training never waits for them.
    """

    def __init__(self) -> None:
        self.history = History()
        self._rates: dict[str, float] = {}
        self._step = 0

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._step = trainer.global_step
        if self.history.wants(self._step):
            self._rates = rates(trainer)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            # Lightning gives the loss divided by the batches that are accumulated.
            self.history.add(self._step, self._rates, loss * trainer.accumulate_grad_batches)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and trainer.global_step:
            found = _trainer.scalar_metrics(trainer)
            measured = {name: value for name, value in found.items() if name.startswith("val")}
            self.history.measure(trainer.global_step, measured)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.history.flush()

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.history.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history.load_state_dict(state_dict)


def rates(trainer: pl.Trainer) -> dict[str, float]:
    """By layer group: its decayed and undecayed halves share a rate."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return {
        str(group.get("name", f"group {place}")).partition("/")[0]: float(group["lr"])
        for place, group in enumerate(groups)
    }
