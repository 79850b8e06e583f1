"""A picture of the run: rates, losses and metrics over its steps."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from typing_extensions import override

from lightning_finetune.engine.history import History
from lightning_finetune.engine.metric_names import less_is_better
from lightning_finetune.run.artifacts import save_figure
from lightning_finetune.run.phase_ends import ends_phase, plan_of
from lightning_finetune.run.recording import RecordingCallback, image_size, rates
from lightning_finetune.run.trainer import is_dev_run
from lightning_finetune.show.shown_plan import bands_of


class PlotRun(RecordingCallback):
    """Draw the learning rate of each layer group, the losses and the validation metrics of a run, phases behind them.

    Writes ``run.png`` into the run's directory at the end of each phase, of the run, and of one that fails. Rates,
    momentum, phase, image size (the shorter side), the fraction of parameters that train, and the best value so far of
    each validation metric (``best/val_…``) also go to the loggers, beside what the module logs. A resumed run draws
    the whole of it.
    """

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self._step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]  # set by a connector
            _log(trainer, pl_module, batch, self._step)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if not trainer.sanity_checking and trainer.global_step:
            _log_best(trainer, self.history)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if ends_phase(trainer):
            self._draw(trainer)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._draw(trainer)

    def _draw(self, trainer: pl.Trainer) -> None:
        self.history.flush()
        if not trainer.is_global_zero or not self.history.steps or is_dev_run(trainer):
            return
        from lightning_finetune.show.figures.whole_run import draw_run

        figure = draw_run(self.history, bands_of(plan_of(trainer)), f"up to epoch {trainer.current_epoch + 1}")
        save_figure(trainer, "run", figure)


def _log(trainer: pl.Trainer, module: pl.LightningModule, batch: Any, step: int) -> None:
    """Rates by layer group, what trains, and what the plan says of the step, to every logger."""
    values = {f"lr/{name}": rate for name, rate in rates(trainer).items()}
    values["trained_fraction"] = _trained_fraction(module)
    size = image_size(trainer, batch)
    if size is not None:
        values["image_size"] = min(size)
    plan = plan_of(trainer)
    if plan is not None:
        state = plan.at(trainer.current_epoch, step)
        values["phase"] = state.phase + 1
        if state.momentum is not None:
            values["momentum"] = state.momentum
    for logger in trainer.loggers:
        logger.log_metrics(values, step=step)


def _trained_fraction(module: pl.LightningModule) -> float:
    sizes = [(param.numel(), param.requires_grad) for param in module.parameters()]
    return sum(count for count, trains in sizes if trains) / max(sum(count for count, _ in sizes), 1)


def _log_best(trainer: pl.Trainer, history: History) -> None:
    """The best value so far of what was measured, also before a resume: what a sweep compares runs by."""
    best = {}
    for name, points in history.measured.items():
        better = min if less_is_better(name) else max
        best[f"best/{name}"] = better(value for _, value in points)
    for logger in trainer.loggers:
        logger.log_metrics(best, step=trainer.global_step)
