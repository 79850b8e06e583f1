"""Figures and tables to the run's directory, and to the loggers that take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from lightning_finetune.callbacks._run_dir import run_dir

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # heavy, and only its name is needed


def save_figure(trainer: pl.Trainer, name: str, figure: Figure, dpi: int = 110) -> None:
    """Write ``name.png``, and give the figure to Weights & Biases and TensorBoard; on rank zero.

    Args:
        trainer: Of the run.
        name: Of the file, and of the entry in the loggers.
        figure: To show.
        dpi: Pixels an inch.
    """
    path = run_dir(trainer) / f"{name}.png"
    figure.savefig(path, dpi=dpi)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)], step=trainer.global_step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(name, figure, trainer.global_step)


def save_table(trainer: pl.Trainer, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Give a table to Weights & Biases, the only logger that has them; on rank zero."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_table(name, list(columns), [list(row) for row in rows], step=trainer.global_step)
