"""What a run leaves: where its files lie; figures and tables, there and for loggers that take them; on rank zero."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.trainer.states import TrainerFn

from lightning_finetune.run.either_lightning import is_a

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # heavy, and only its name is needed

    from lightning_finetune.show.figures.content import Shown


def run_dir(trainer: pl.Trainer) -> Path:
    """The run's own directory: the one in which Lightning's ModelCheckpoint makes its folder ``checkpoints``.

    That is ``save_dir/name/version`` of the first logger, and ``default_root_dir`` without any; it is made where it is
    missing. Meant for rank zero, after the loggers have begun (they have when callbacks are set up).
    """
    folder = Path(trainer.default_root_dir)
    if trainer.loggers:
        logger = trainer.loggers[0]
        version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
        folder = Path(logger.save_dir or folder, str(logger.name), version)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def keeps_files(trainer: pl.Trainer) -> bool:
    """Whether the run was asked to leave files: it has a logger, saves checkpoints, or was given a folder."""
    elsewhere = Path(trainer.default_root_dir) != Path.cwd()
    return bool(trainer.loggers or trainer.checkpoint_callbacks) or elsewhere


def shown(path: Path) -> str:
    """A path as short as it can be typed: relative to the working directory where it lies inside."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def resume_command(trainer: pl.Trainer, checkpoint: Path) -> str:
    """What to type to go on from ``checkpoint``, with the configuration that the command has saved."""
    config = run_dir(trainer) / "config.yaml"
    given = f"--config {shown(config)}" if config.is_file() else "…"
    return f"lightning-finetune fit {given} --ckpt_path {shown(checkpoint)}"


def shown_state(trainer: pl.Trainer) -> str:
    """Which weights a picture shows: those after an epoch of the fit, or those of a checkpoint."""
    if trainer.state.fn == TrainerFn.FITTING:
        return f"after epoch {trainer.current_epoch + 1}"
    return f"of {Path(trainer.ckpt_path).name}" if trainer.ckpt_path else "of the weights as they are"


def save_figure(trainer: pl.Trainer, name: str, figure: Figure, dpi: int = 110) -> None:
    """Write ``name.png``, and give the figure to Weights & Biases and TensorBoard.

    Args:
        trainer: Of the run.
        name: Of the file, and of the entry in the loggers.
        figure: To show.
        dpi: Pixels an inch.
    """
    from lightning_finetune.show.figures.saving import save  # only now, as it loads matplotlib

    path = run_dir(trainer) / f"{name}.png"
    save(figure, path, dpi)
    for logger in trainer.loggers:
        if is_a(logger, WandbLogger):
            logger.log_image(name, [str(path)], step=trainer.global_step)
        elif is_a(logger, TensorBoardLogger):
            logger.experiment.add_figure(name, figure, trainer.global_step)


def save_table(trainer: pl.Trainer, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write ``name.csv``, and give the table to Weights & Biases and, as text, to TensorBoard.

    Args:
        trainer: Of the run.
        name: Of the file, and of the entry in the loggers.
        columns: Their names.
        rows: Numbers and words.
    """
    with (run_dir(trainer) / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    for logger in trainer.loggers:
        if is_a(logger, WandbLogger):
            logger.log_table(name, list(columns), [list(row) for row in rows], step=trainer.global_step)
        elif is_a(logger, TensorBoardLogger):
            lines = [columns, ["---"] * len(columns), *rows]
            text = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
            logger.experiment.add_text(name, text, trainer.global_step)


def wandb_loggers(trainer: pl.Trainer) -> list[WandbLogger]:
    """Those of the run's loggers that log to Weights & Biases."""
    return [logger for logger in trainer.loggers if is_a(logger, WandbLogger)]


def save_samples(trainer: pl.Trainer, name: str, shown: Sequence[Shown], classes: Sequence[str]) -> None:
    """Give images with truth and prediction to Weights & Biases as a table, masks as layers that can be switched.

    Args:
        trainer: Of the run.
        name: Of the entry.
        shown: The images.
        classes: Names of the ids in masks.
    """
    for logger in wandb_loggers(trainer):
        rows = [[_wandb_image(item, classes), item.truth, item.prediction, item.wrong] for item in shown]
        logger.log_table(name, ["image", "truth", "prediction", "wrong"], rows, step=trainer.global_step)


def _wandb_image(item: Shown, classes: Sequence[str]) -> Any:
    import wandb

    if item.masks is None:
        return wandb.Image(item.image)
    names = dict(enumerate(classes))
    layers = zip(("truth", "prediction"), item.masks, strict=True)
    # What is no class (Void) has no name, and its id must fit a byte.
    ids = {key: np.where(mask < 0, 255, mask).clip(max=255) for key, mask in layers}
    return wandb.Image(item.image, masks={key: {"mask_data": mask, "class_labels": names} for key, mask in ids.items()})
