"""Which files of a folder are images."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

from lightning_finetune.data.block.paths import FilePaths
from lightning_finetune.data.pixels.image_files import is_image
from lightning_finetune.errors import DataError, first_ten, no_folder

log = logging.getLogger(__name__)

# What systems and loggers leave among files; of a run in the folder of its data, pictures too.
_LITTER = frozenset({
    "thumbs.db", "desktop.ini", "__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information",
    "lightning_logs", "wandb", "mlruns",
})  # fmt: skip

OUTPUTS = ".outputs"
"""The file that marks a folder of predictions, whose masks and pictures are no data of the folder that it lies in."""


def image_files(folder: Path, *, skip: Iterable[str] = ()) -> FilePaths:
    """All images under a folder, sorted; hidden files and folders are passed over.

    Args:
        folder: Where to look, at any depth.
        skip: Names or paths of folders to leave out.

    Raises:
        DataError: The folder does not exist.
    """
    check_folder(folder)
    images, others = FilePaths(), FilePaths()
    for path in _visible(str(folder / "_")[:-1], set(skip)):
        (images if is_image(path) else others).append(path)
    _report(others, images)
    return images


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or left by a system."""
    return name.startswith(".") or name.lower() in _LITTER


def is_output(folder: str | Path) -> bool:
    """Whether a folder holds what this package wrote."""
    return os.path.exists(os.path.join(folder, OUTPUTS))  # noqa: PTH110, PTH118  # once a folder of thousands


def check_folder(folder: Path) -> None:
    """Check that there is such a folder.

    Raises:
        DataError: There is none.
    """
    if not folder.is_dir():
        raise no_folder(folder)


def check_class_folders(files: FilePaths) -> None:
    """Check that each folder beside the folders of images holds images, or folders, such as those of logs.

    Raises:
        DataError: Some hold none.
    """
    holders = set(map(Path, set(files.folders())))
    filled = {folder for holder in holders for folder in (holder, *holder.parents)}
    above = {holder.parent for holder in holders}
    beside = {folder for parent in above for folder in parent.iterdir() if folder.is_dir()}
    visible = [folder for folder in beside - filled if not (is_litter(folder.name) or is_output(folder))]
    empty = sorted(
        folder for folder in visible if not any(path.is_dir() or is_image(path) for path in folder.iterdir())
    )
    if empty:
        held = (f"{folder}{_held(folder)}" for folder in empty)
        raise DataError(f"Expected images in each class folder; remove or fill these:{first_ten(held)}")


def why_no_images(folder: Path) -> str:
    """What lies under a folder in place of images, and what to do about it."""
    endings = Counter(Path(path).suffix.lower() or "no ending" for path in _visible(str(folder / "_")[:-1], set()))
    if not endings:
        return "It is empty."
    text = f"Its files have the endings {dict(endings.most_common(5))}."
    if {".heic", ".heif"} & set(endings):
        return f"{text} Pillow does not read photos of iPhones: convert them to JPEG."
    if {".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"} & set(endings):
        return f"{text} Unpack the archive first."
    return f"{text} Convert them to JPEG or PNG, or give them such an ending if they are that."


def _held(folder: Path) -> str:
    endings = Counter(path.suffix.lower() for path in folder.iterdir() if path.suffix)
    return f" (holds {', '.join(f'{count} {ending}' for ending, count in endings.most_common(3))})" if endings else ""


def _visible(start: str, skipped: AbstractSet[str]) -> Iterator[str]:
    """The files whose paths begin with ``start``, in the order of sorted paths: one folder at a time in memory."""
    _, folders, names = next(os.walk(start or ".", onerror=_refuse), ("", [], []))
    inner = set(folders)
    for name in sorted([*folders, *names]):
        if is_litter(name):
            continue
        if name not in inner:
            yield f"{start}{name}"
        elif (
            skipped.isdisjoint((name, f"{start}{name}"))
            and not is_output(f"{start}{name}")
            and not _leads_back(Path(start, name))
        ):
            yield from _visible(f"{start}{name}{os.sep}", skipped)


def _refuse(error: OSError) -> None:
    """A folder that cannot be listed would be left out, with all that is in it."""
    raise DataError(f"{Path(error.filename)}: expected a folder that can be listed, but: {error.strerror}.") from error


def _leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one that holds it, where a walk would go round for ever."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _report(others: FilePaths, images: FilePaths) -> None:
    """Name the files among images that are left out; texts and tables beside a data set are no news."""
    if not others:
        return
    folders = set(images.folders())
    among = others.take(place for place, folder in enumerate(others.folders()) if folder in folders)
    if among:
        log.warning("%d files are not images by their extension and are left out:%s", len(among), first_ten(among))
