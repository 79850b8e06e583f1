"""Where the mask of an image lies, how its name differs from that of the image, and what its classes are called."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path

from lightning_finetune.data.block.folder_images import image_files, why_no_images
from lightning_finetune.data.block.label_values import clean
from lightning_finetune.data.block.tables import read_lines
from lightning_finetune.errors import DataError, did_you_mean, first_ten

log = logging.getLogger(__name__)

_PlacesOf = Callable[[Path], list[Path]]


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
    names = [name] if (root / name).is_dir() else sorted({folder.name for folder in folders})
    places_of = partial(_places_of, root, names)
    photos = (Path(image) for image in images if os.path.splitext(image)[0] not in suffixes)  # noqa: PTH122  # of texts
    rename = _renaming(photos, places_of, suffixes)

    def mask_of(image: Path) -> Path:
        likely = [place / rename(image.stem) for place in places_of(image)]
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


def _places_of(root: Path, names: Sequence[str | Path], image: Path) -> list[Path]:
    """Folders in which the mask of an image may lie, likeliest first."""
    parts = image.relative_to(root).parts[:-1] if image.is_relative_to(root) else ()
    places = range(len(parts) - 1, -1, -1)
    beside = [root.joinpath(*parts[:k], name, *parts[k + 1 :]) for name in names for k in places]
    tops = [root / name for name in names]
    return [*beside, *(top.joinpath(*parts) for top in tops), *tops, *(image.parent / name for name in names)]


def _names_of_folders(root: Path) -> set[str]:
    return {folder for _, folders, _ in os.walk(root) for folder in folders}


@dataclass(frozen=True, order=True)
class _Affixes:
    """What the name of an image has around the part that its mask shares, and what the mask has there."""

    before: str
    after: str
    mask_before: str
    mask_after: str

    def __call__(self, stem: str) -> str:
        """The name of the mask; that of the image, where it has other affixes."""
        if not (stem.startswith(self.before) and stem.endswith(self.after)):
            return stem
        core = stem[len(self.before) : len(stem) - len(self.after)]
        return f"{self.mask_before}{core}{self.mask_after}"

    def __str__(self) -> str:
        return f"{self.before}NAME{self.after} -> {self.mask_before}NAME{self.mask_after}"


def _renaming(images: Iterable[Path], places_of: _PlacesOf, masks: Collection[str]) -> Callable[[str], str]:
    """A function from the names of images to those of their masks, without endings.

    Args:
        images: All of them.
        places_of: An image to the folders in which its mask may lie.
        masks: Their paths, without endings.

    Returns:
        The names themselves where the first image has a mask of its own name, or where no other way fits all images.

    Raises:
        DataError: Several ways fit all images.
    """
    files = list(images)
    if not files or _has_mask(files[0], str, places_of, masks):
        return str
    likely = _candidates(files[0], places_of, masks)
    ways = [way for way in likely if all(_has_mask(file, way, places_of, masks) for file in files)]
    if len(ways) > 1:
        raise DataError(
            f"masks: expected one mask for each image, got {len(ways)}, by the names:{first_ten(map(str, ways))}"
            "\nSay which by a function: masks=lambda image: …"
        )
    if not ways:
        return str
    log.warning("Masks are found by their names: %s", ways[0])
    return ways[0]


def _has_mask(image: Path, rename: Callable[[str], str], places_of: _PlacesOf, masks: Collection[str]) -> bool:
    name = rename(image.stem)
    return any(str(place / name) in masks for place in places_of(image))


def _candidates(image: Path, places_of: _PlacesOf, masks: Collection[str]) -> Iterator[_Affixes]:
    """Ways from an image to masks in its likely folders: those that hold its whole name, and the first of all."""
    folders = set(map(str, places_of(image)))
    names = sorted(Path(mask).name for mask in masks if str(Path(mask).parent) in folders)
    around = {_Affixes("", "", *name.split(image.stem, 1)) for name in names if image.stem in name}
    yield from sorted(around)
    if names and not around:
        yield from _shared(image.stem, names[0])


def _shared(stem: str, mask: str) -> Iterator[_Affixes]:
    """What is around the longest part that two names share, unless that cuts a number in two."""
    match = SequenceMatcher(None, stem, mask, autojunk=False).find_longest_match()
    core = stem[match.a : match.a + match.size].strip("_- .")  # what joins words belongs to the words around
    if core:
        (before, _, after), (mask_before, _, mask_after) = stem.partition(core), mask.partition(core)
        beside = (before[-1:], after[:1], mask_before[-1:], mask_after[:1])
        if not any(letter.isdigit() for letter in beside):
            yield _Affixes(before, after, mask_before, mask_after)
