"""Where a run keeps its files, whatever its logger."""

from __future__ import annotations

import os
from pathlib import Path

import lightning.pytorch as pl


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
