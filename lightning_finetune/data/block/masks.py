"""Where the mask of an image lies, and what its classes are called."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_finetune.data.block.folder_images import image_files, why_no_images
from lightning_finetune.data.block.label_values import clean
from lightning_finetune.data.block.mask_names import renaming
from lightning_finetune.data.block.tables import read_lines
from lightning_finetune.errors import DataError, did_you_mean, first_ten


def mask_folders(root: Path, name: str | Path) -> list[Path]:
    """The folders that hold masks: of this name in any case, at any depth; or the one of this path.

    A path is taken from ``root``; from the working directory, as that of ``root``, where nothing is found under it.
    """
    direct = root / name
    if direct.is_dir():
        return [direct]
    inside = (Path(at, folder) for at, folders, _ in os.walk(root) for folder in folders if not folder.startswith("."))
    folders = sorted(folder for folder in inside if folder.name.lower() == Path(name).name.lower())
    return folders or [folder for folder in (Path(name).absolute(),) if folder.is_dir()]


def mask_finder(root: Path, name: str | Path, images: Iterable[str] = ()) -> Callable[[Path], Path]:
    """A function from an image to its mask, the file of the same stem in a folder of masks.

    The folder lies beside the images (``train/images/a.jpg`` and ``train/masks/a.png``) or mirrors the tree of the
    images (``train/a.jpg`` and ``masks/train/a.png``, or ``masks/a.png``). Stems may differ by what is the same for all
    ``images``: ``a.jpg`` and ``a_mask.png``, ``img_1.jpg`` and ``label_1.png``.

    Args:
        root: Folder of the data set.
        name: Name of the folders of masks, or the path of one.
        images: Paths of all images.

    Raises:
        DataError: There is no such folder under ``root``, or names of masks differ in more than one way.
    """
    folders = mask_folders(root, name)
    name = next((folder for folder in folders if not folder.is_relative_to(root)), name)
    masks = (file for folder in folders for file in image_files(folder).texts())
    # As text: `Path` objects of a million masks would take a gigabyte.
    suffixes = {stem: sys.intern(suffix) for stem, suffix in map(os.path.splitext, masks)}
    if not suffixes:
        hint = f" {why_no_images(folders[0])}" if folders else did_you_mean(str(name), _names_of_folders(root))
        raise DataError(f"masks: expected a folder {str(name)!r} with masks under {root}, found none.{hint}")
    names = {folder.name for folder in folders} or {Path(name).name}
    places = _Places(root, Path(name), names)
    photos = (Path(image) for image in images if os.path.splitext(image)[0] not in suffixes)  # noqa: PTH122  # of texts
    rename = renaming(photos, places, suffixes)

    def mask_of(image: Path) -> Path:
        likely = [place / rename(image.stem) for place in places.of(image)]
        return next(
            (Path(f"{stem}{suffixes[str(stem)]}") for stem in likely if str(stem) in suffixes),
            likely[0].with_name(f"{likely[0].name}.png"),
        )

    return mask_of


def read_codes(root: Path, codes: str | Path | Sequence[str] | None) -> tuple[str, ...]:
    """The names of mask classes: given, or one per line in a file (by default ``codes.txt`` in ``root``).

    Raises:
        DataError: There is no such file, it is not UTF-8, or two classes have one name.
    """
    if codes is not None and not isinstance(codes, (str, Path)):
        return _different(map(str, codes))
    file = root / (codes or "codes.txt")
    if not file.is_file():
        raise DataError(
            f"codes: expected the names of the mask classes in {file}, or as a list; there is no such file."
        )
    return _different(read_lines(file))


def _different(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes, cleaned; each once."""
    codes = tuple(filter(None, map(clean, names)))
    twice = sorted({name for name in codes if codes.count(name) > 1})
    if twice:
        raise DataError(f"codes: expected a name for each class that no other has, got twice:{first_ten(twice)}")
    return codes


@dataclass(frozen=True)
class _Places:
    """Where masks may lie."""

    root: Path
    name: Path
    names: Collection[str]

    def of(self, image: Path) -> list[Path]:
        """Folders in which the mask of an image may lie, likeliest first."""
        direct = self.root / self.name
        parts = image.relative_to(self.root).parts[:-1] if image.is_relative_to(self.root) else ()
        names = [self.name] if direct.is_dir() else sorted(self.names)
        places = range(len(parts) - 1, -1, -1)
        beside = [self.root.joinpath(*parts[:k], name, *parts[k + 1 :]) for name in names for k in places]
        tops = [self.root / name for name in names]
        return [*beside, *(top.joinpath(*parts) for top in tops), *tops, *(image.parent / name for name in names)]


def _names_of_folders(root: Path) -> set[str]:
    return {folder for _, folders, _ in os.walk(root) for folder in folders}
