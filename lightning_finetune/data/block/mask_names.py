"""How the names of masks differ from those of their images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Protocol

from lightning_finetune.errors import DataError, first_ten

log = logging.getLogger(__name__)


class Places(Protocol):
    """Where masks may lie."""

    def of(self, image: Path) -> list[Path]:
        """Folders in which the mask of an image may lie, likeliest first."""


@dataclass(frozen=True, order=True)
class Affixes:
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


def renaming(images: Iterable[Path], places: Places, masks: Collection[str]) -> Callable[[str], str]:
    """A function from the names of images to those of their masks, without endings.

    Args:
        images: All of them.
        places: Where masks may lie.
        masks: Their paths, without endings.

    Returns:
        The names themselves where the first image has a mask of its own name, or where no other way fits all images.

    Raises:
        DataError: Several ways fit all images.
    """
    files = list(images)
    if not files or _has_mask(files[0], str, places, masks):
        return str
    likely = _candidates(files[0], places, masks)
    ways = [way for way in likely if all(_has_mask(file, way, places, masks) for file in files)]
    if len(ways) > 1:
        raise DataError(
            f"masks: expected one mask for each image, got {len(ways)}, by the names:{first_ten(map(str, ways))}"
            "\nSay which by a function: masks=lambda image: …"
        )
    if not ways:
        return str
    log.warning("Masks are found by their names: %s", ways[0])
    return ways[0]


def _has_mask(image: Path, rename: Callable[[str], str], places: Places, masks: Collection[str]) -> bool:
    name = rename(image.stem)
    return any(str(place / name) in masks for place in places.of(image))


def _candidates(image: Path, places: Places, masks: Collection[str]) -> Iterator[Affixes]:
    """Ways from an image to masks in its likely folders: those that hold its whole name, and the first of all."""
    folders = set(map(str, places.of(image)))
    names = sorted(Path(mask).name for mask in masks if str(Path(mask).parent) in folders)
    around = {Affixes("", "", *name.split(image.stem, 1)) for name in names if image.stem in name}
    yield from sorted(around)
    if names and not around:
        yield from _shared(image.stem, names[0])


def _shared(stem: str, mask: str) -> Iterator[Affixes]:
    """What is around the longest part that two names share, unless that cuts a number in two."""
    start, other, size = SequenceMatcher(None, stem, mask, autojunk=False).find_longest_match()
    core = stem[start : start + size]
    left = size - len(core.lstrip("_- ."))  # what joins words belongs to the words around
    right = size - len(core.rstrip("_- ."))
    start, other, size = start + left, other + left, size - left - right
    way = Affixes(stem[:start], stem[start + size :], mask[:other], mask[other + size :])
    beside = (way.before[-1:], way.after[:1], way.mask_before[-1:], way.mask_after[:1])
    if size > 0 and not any(letter.isdigit() for letter in beside):
        yield way
