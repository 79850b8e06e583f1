"""Pictures and tables to every logger that can hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from lightning_finetune.callbacks._run_dir import run_dir

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # heavy, and only its name is needed


def log_figure(trainer: pl.Trainer, name: str, figure: Figure) -> None:
    """Save a figure as ``name.png`` in the run's directory, and log it to W&B and TensorBoard; on rank zero only."""
    if not trainer.is_global_zero:
        return
    path = run_dir(trainer) / f"{name}.png"
    figure.savefig(path, dpi=110)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)], step=trainer.global_step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(name, figure, trainer.global_step)


def log_table(trainer: pl.Trainer, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Log a table to W&B, the only logger that has them; on rank zero only."""
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if isinstance(logger, WandbLogger):
            logger.log_table(name, list(columns), [list(row) for row in rows], step=trainer.global_step)
