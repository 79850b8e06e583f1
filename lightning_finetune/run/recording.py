"""What callbacks that look back on a run share: what its steps were made with, and what came of them."""

from __future__ import annotations

from typing import Any, TypeAlias

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch.nn import Parameter
from typing_extensions import override

from lightning_finetune.engine.history import Settings
from lightning_finetune.engine.param_groups import rate_of
from lightning_finetune.engine.resize import Size
from lightning_finetune.errors import DataError
from lightning_finetune.run.phase_ends import layers_of, size_on_device
from lightning_finetune.run.trainer import callbacks, loss_in, scalar_metrics
from lightning_finetune.show.histories import ShownHistory
from lightning_finetune.tasks.shared.batch_parts import images_of

Sizes: TypeAlias = dict[str, list[tuple[Parameter, int]]]
"""Parameters and how many numbers each holds, by the name of their group."""


class RecordingCallback(Callback):
    """Keeps a :class:`~lightning_finetune.engine.history.History`, also over a resume; one for all of a run.

    All of it is read off the optimizer, the module and the batch, not off a plan. Losses stay on their device until the
    end of an epoch, so training never waits for them.
    """

    def __init__(self) -> None:
        self.history = ShownHistory()
        self._records = True
        self._settings = Settings({})
        self._sizes: Sizes | None = None
        self._step = 0

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._sizes = None
            first = next(each for each in callbacks(trainer) if isinstance(each, RecordingCallback))
            self._records = first is self
            if self._records and trainer.global_step == 0:  # else a second `fit` goes on with the first
                self.history = ShownHistory()
            self.history = first.history

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.history.begin_epoch(trainer.current_epoch, trainer.global_step)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._step = trainer.global_step
        if self._records and self.history.wants(self._step):
            if self._sizes is None:
                self._sizes = _sizes(trainer)
            size, trained = image_size(trainer, batch), _shares(self._sizes)
            held = {name: rate_of(group) for name, group in _named_groups(trainer)}
            self._settings = Settings(held, _momentum(trainer), size, trained)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._records and (loss := loss_in(outputs)) is not None:
            # Lightning gives the loss divided by the batches that are accumulated.
            self.history.add(self._step, self._settings, loss * trainer.accumulate_grad_batches)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._records and not trainer.sanity_checking and trainer.global_step:
            metrics = scalar_metrics(trainer)
            measured = {name: value for name, value in metrics.items() if name.startswith("val")}
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
    return {name: float(group["lr"]) for name, group in _named_groups(trainer)}


def image_size(trainer: pl.Trainer, batch: Any) -> Size | None:
    """Height and width of the images of a training batch as the module gets them, where it has any."""
    resized = size_on_device(trainer)
    if resized is not None:
        return resized
    try:
        height, width = images_of(batch).shape[-2:]
    except DataError:
        return None
    return height, width


def _momentum(trainer: pl.Trainer) -> float | None:
    """Of the last parameter group, which is the head's."""
    groups = [group for _, group in _named_groups(trainer)]
    if not groups:
        return None
    value = groups[-1]["betas"][0] if "betas" in groups[-1] else groups[-1].get("momentum")
    return None if value is None else float(value)


def _sizes(trainer: pl.Trainer) -> Sizes:
    """By layer group, or by parameter group where nobody made layer groups."""
    held: dict[str, list[Parameter]] = dict(layers_of(trainer))
    for name, group in () if held else _named_groups(trainer):
        held.setdefault(name, []).extend(group["params"])
    return {name: [(param, param.numel()) for param in params] for name, params in held.items()}


def _shares(sizes: Sizes) -> dict[str, float]:
    """The part of each group's numbers that train now."""
    return {
        name: sum(count for param, count in params if param.requires_grad) / max(sum(count for _, count in params), 1)
        for name, params in sizes.items()
    }


def _named_groups(trainer: pl.Trainer) -> list[tuple[str, dict[str, Any]]]:
    """The optimizers' parameter groups with the names of their layer groups."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return [(str(group.get("name", f"group {place}")).partition("/")[0], group) for place, group in enumerate(groups)]
