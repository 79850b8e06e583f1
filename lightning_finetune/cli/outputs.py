"""Folders that the command writes what it found to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lightning_finetune.errors import FinetuneError


def claim(folder: Path, names: Iterable[str], overwrite: bool) -> None:
    """Make a folder, unless it holds the results of somebody else.

    Args:
        folder: To write to.
        names: Of the files and folders in it that will be written.
        overwrite: Write over what is there.

    Raises:
        FinetuneError: One of ``names`` is there, or a file in place of the folder.
    """
    if folder.exists() and not folder.is_dir():
        raise FinetuneError(f"{folder}: expected a folder to write to, got a file. Give another name by --out.")
    folder.mkdir(parents=True, exist_ok=True)
    there = [name for name in names if (folder / name).exists()]
    if there and not overwrite:
        raise taken(folder / there[0])


def taken(path: Path) -> FinetuneError:
    """The error of results that are there already, maybe since a moment ago."""
    return FinetuneError(
        f"{path}: there are results already. Give another folder by --out, or --overwrite to replace them."
    )
