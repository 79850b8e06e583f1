"""A Trainer for benchmarks: it writes nothing, and a clock tells when each epoch's training and validation ended."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

Error = Callable[[Mapping[str, Any]], float]


class Clock:
    """Seconds since training began, at the end of each epoch's training and validation.

    Attributes:
        timeline: Wall seconds and the validation error after each epoch.
        cpu: Seconds of the processor that this process had used by then, its threads together.
        training: Of these, those of each epoch's training alone.
    """

    def __init__(self) -> None:
        self.timeline: list[tuple[float, float]] = []
        self.cpu: list[float] = []
        self.training: list[float] = []
        self.begin()

    def begin(self) -> None:
        """Training begins."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self._epoch = self._cpu

    def epoch_begins(self) -> None:
        """An epoch's training begins."""
        self._epoch = time.process_time()

    def training_ends(self) -> None:
        """An epoch's training has ended."""
        self.training.append(round(time.process_time() - self._epoch, 3))

    def epoch_ends(self, error: float) -> None:
        """An epoch's validation has ended."""
        self.timeline.append((round(time.perf_counter() - self._wall, 2), round(error, 4)))
        self.cpu.append(round(time.process_time() - self._cpu, 2))


def error_rate(metrics: Mapping[str, Any]) -> float:
    """The error of a classifier, of what it logged."""
    return float(metrics["val_error_rate"])


def fit(module: Any, data: Any, callbacks: list[Any], epochs: int, error: Error = error_rate, **options: Any) -> Clock:
    """Train on the CPU and validate after each epoch.

    Args:
        module: A LightningModule.
        data: A data module.
        callbacks: What makes the run what it is.
        epochs: Of the whole run.
        error: Of the metrics that the module logs.
        **options: Of the Trainer.
    """
    import lightning.pytorch as pl

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    clock = Clock()

    class Timed(pl.Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            clock.epoch_begins()

        def on_validation_start(self, *_: Any) -> None:
            clock.training_ends()

        def on_validation_end(self, trainer: Any, *_: Any) -> None:
            clock.epoch_ends(error(trainer.callback_metrics))

    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
            callbacks=[Timed(), *callbacks],
            **{"enable_checkpointing": False, **options},
        )
        clock.begin()
        trainer.fit(module, data)
    return clock
