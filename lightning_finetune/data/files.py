"""Which files of a folder are images."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from PIL import Image

from lightning_finetune.data.decode import is_array
from lightning_finetune.errors import DataError, first_ten

log = logging.getLogger(__name__)

_LITTER = {"thumbs.db", "desktop.ini"}


def image_files(folder: Path, *, skip: Iterable[str] = ()) -> list[Path]:
    """All images under a folder, sorted; hidden files and folders are passed over.

    Args:
        folder: Where to look, at any depth.
        skip: Names of folders to leave out.

    Raises:
        DataError: The folder does not exist.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of images, but there is none.")
    skipped, found, others = set(skip), [], []
    for at, folders, names in os.walk(folder, followlinks=True):
        wanted = [name for name in folders if not name.startswith(".") and name not in skipped]
        folders[:] = [name for name in wanted if not _leads_back(Path(at, name))]
        kept = [Path(at, name) for name in names if not name.startswith(".") and name.lower() not in _LITTER]
        found += [path for path in kept if is_image(path)]
        others += [path for path in kept if not is_image(path)]
    _report(others, {path.parent for path in found})
    return sorted(found)


def check_class_folders(files: Iterable[Path]) -> None:
    """Check that each folder beside the folders of images holds images, or folders, such as those of logs.

    Raises:
        DataError: Some hold none.
    """
    holders = {file.parent for file in files}
    filled = {folder for holder in holders for folder in (holder, *holder.parents)}
    above = {holder.parent for holder in holders}
    beside = {folder for parent in above for folder in parent.iterdir() if folder.is_dir()}
    visible = [folder for folder in beside - filled if not folder.name.startswith(".")]
    empty = sorted(
        folder for folder in visible if not any(path.is_dir() or is_image(path) for path in folder.iterdir())
    )
    if empty:
        raise DataError(f"Expected images in each class folder; remove or fill these:{first_ten(empty)}")


def is_image(path: Path) -> bool:
    """Whether Pillow knows the extension, whatever its case, or it is that of an array."""
    return path.suffix.lower() in _extensions() or is_array(path)


def _leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one that holds it, where a walk would go round for ever."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


@cache
def _extensions() -> frozenset[str]:
    known = Image.registered_extensions()
    return frozenset(extension for extension, name in known.items() if name in Image.OPEN and name not in _NO_PHOTOS)


# Formats that Pillow opens but that hold documents or video.
_NO_PHOTOS = {"PDF", "MPEG", "EPS", "WMF", "HDF5", "GRIB", "BUFR"}


def _report(others: Iterable[Path], folders: set[Path]) -> None:
    """Name the files among images that are left out; texts and tables beside a data set are no news."""
    among = sorted(path for path in others if path.parent in folders)
    if among:
        log.warning("%d files are not images by their extension and are left out:%s", len(among), first_ten(among))
