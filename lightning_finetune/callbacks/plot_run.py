"""A picture of the run: rates, losses and metrics over its steps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from typing_extensions import override

from lightning_finetune.callbacks import _trainer
from lightning_finetune.callbacks._figures import save_figure
from lightning_finetune.callbacks._phase_ends import bands_of, ends_phase, plan_of
from lightning_finetune.errors import DataError
from lightning_finetune.history import History
from lightning_finetune.tasks.batch import images_of

_LESS_IS_BETTER = re.compile(r"loss|error|mae|mse")


class PlotRun(Callback):
    """Draw the learning rate of each layer group, the losses and the validation metrics of a run, phases behind them.

    Writes ``run.png`` into the run's directory at the end of each phase, of the run, and of one that fails. Rates,
    momentum, phase, image size (the shorter side), the fraction of parameters that train, and the best value so far of
    each validation metric (``best/val_…``) also go to the loggers, beside what the module logs. Losses stay on their
    device until the end of an epoch, so training never waits for them. A resumed run draws the whole of it.
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
            self._rates = _rates(trainer)
        if self._step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]  # set by a connector
            _log(trainer, pl_module, batch, self._step)

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
            measured = {
                name: value for name, value in _trainer.scalar_metrics(trainer).items() if name.startswith("val")
            }
            self.history.measure(trainer.global_step, measured)
            _log_best(trainer, self.history, measured)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.history.flush()
        if ends_phase(trainer):
            self._draw(trainer)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._draw(trainer)

    def _draw(self, trainer: pl.Trainer) -> None:
        self.history.flush()
        if not trainer.is_global_zero or not self.history.steps or _trainer.is_dev_run(trainer):
            return
        from lightning_finetune.pictures import draw_run

        figure = draw_run(self.history, bands_of(plan_of(trainer)))
        save_figure(trainer, "run", figure)

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.history.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history.load_state_dict(state_dict)


def _rates(trainer: pl.Trainer) -> dict[str, float]:
    """By layer group: its decayed and undecayed halves share a rate."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return {
        str(group.get("name", f"group {place}")).partition("/")[0]: float(group["lr"])
        for place, group in enumerate(groups)
    }


def _log(trainer: pl.Trainer, module: pl.LightningModule, batch: Any, step: int) -> None:
    """Rates by layer group, what trains, and what the plan says of the step, to every logger."""
    values = {f"lr/{name}": rate for name, rate in _rates(trainer).items()}
    values["trained_fraction"] = _trained_fraction(module)
    size = _image_size(batch)
    plan = plan_of(trainer)
    if plan is not None:
        state = plan.at(trainer.current_epoch, step)
        values["phase"] = state.phase + 1
        if state.momentum is not None:
            values["momentum"] = state.momentum
        if state.size is not None:
            size = min(state.size) if isinstance(state.size, (tuple, list)) else state.size
    if size is not None:
        values["image_size"] = size
    for logger in trainer.loggers:
        logger.log_metrics(values, step=step)


def _trained_fraction(module: pl.LightningModule) -> float:
    sizes = [(param.numel(), param.requires_grad) for param in module.parameters()]
    return sum(count for count, trains in sizes if trains) / max(sum(count for count, _ in sizes), 1)


def _image_size(batch: Any) -> int | None:
    """Shorter side of the images of a batch, where it has any."""
    try:
        return min(images_of(batch).shape[-2:])
    except DataError:
        return None


def _log_best(trainer: pl.Trainer, history: History, names: Iterable[str]) -> None:
    """The best value so far of what was measured, also before a resume: what a sweep compares runs by."""
    best = {}
    for name in names:
        better = min if _LESS_IS_BETTER.search(name) else max
        best[f"best/{name}"] = better(value for _, value in history.measured[name])
    for logger in trainer.loggers:
        logger.log_metrics(best, step=trainer.global_step)
