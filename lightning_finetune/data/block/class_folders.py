"""Which folders of a data set are classes."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lightning_finetune.data.block.folder_images import image_files
from lightning_finetune.data.block.label_values import clean
from lightning_finetune.data.block.layout import MASKS, NO_CLASS, Layout, Parts, folders_in
from lightning_finetune.data.block.splits import Split, split_named
from lightning_finetune.errors import DataError, first_ten

log = logging.getLogger(__name__)


def classes_of(layout: Layout, folders: Iterable[str]) -> dict[str, str]:
    """The class that each folder of images stands for: the innermost name that says something.

    Args:
        layout: Of the data set.
        folders: That hold images.

    Raises:
        DataError: They are no class folders, or it is not clear which of their names are the classes.
    """
    below = {folder: layout.below(folder) for folder in folders}
    _check_masks(layout, below.values())
    _check_wrapped(layout, below)
    inner = {folder: _said(parts) for folder, parts in below.items()}
    bare = sorted(folder for folder, parts in inner.items() if not parts)
    if bare:
        raise DataError(_no_classes(layout, bare))
    _check_nested(layout, inner)
    return {folder: clean(parts[-1]) for folder, parts in inner.items()}


def without_labels(layout: Layout) -> list[str]:
    """The folders of test images that lie in no class folders, if there are any, which is said."""
    tests = layout.named(Split.TEST)
    folders = set() if tests is None else set(image_files(layout.root / tests).folders())
    bare = sorted(folder for folder in folders if not _said(layout.below(folder)))
    if bare:
        log.warning("%s: its images lie in no class folders, so nothing is tested on them; predict them.", bare[0])
    return bare


def _said(parts: Parts) -> Parts:
    """Without the last names that say nothing of a class."""
    while parts and parts[-1].lower() in NO_CLASS:
        parts = parts[:-1]
    return parts


def _check_masks(layout: Layout, below: Iterable[Parts]) -> None:
    """Images beside masks are no classes."""
    firsts = {parts[0] if parts else "" for parts in below if len(parts) < 2}
    masks = sorted(name for name in firsts if MASKS.search(name))
    others = firsts.difference(masks)
    if masks and others and all(name.lower() in NO_CLASS or not name for name in others):
        raise DataError(
            f"{layout.root}: expected class folders, got images beside the folders {masks}. "
            f"Did you mean masks={masks[0]!r}, with codes=[names of the classes]?"
        )


def _check_wrapped(layout: Layout, below: Mapping[str, Parts]) -> None:
    """Splits that lie deeper, in one more folder or in each class, would be pooled."""
    for folder, parts in below.items():
        place = next((k for k in range(1, len(parts)) if _is_split(Path(folder), len(parts) - k, parts[k])), None)
        if place is None:
            continue
        outer, name = Path(*parts[:place]), parts[place]
        if len({other[:place] for other in below.values()}) == 1:
            raise DataError(
                f"{layout.root}: expected folders of splits or classes, got splits within {str(outer)!r}. "
                f"Give root={str(layout.root / outer)!r}."
            )
        raise DataError(
            f"{layout.root}: expected folders of classes within those of splits, got {name!r} within {str(outer)!r}. "
            f"Use the data block: ImageItems.from_folder(root).split_by_func(lambda path: path.parts"
            f"[{place - len(parts) - 1}] == {_valid_beside(Path(folder), len(parts) - place)!r})"
            f".label_from_func(lambda path: path.parts[{-len(parts) - 1}]).datamodule()"
        )


def _is_split(folder: Path, up: int, name: str) -> bool:
    """Whether ``name``, so many folders up from ``folder``, is that of a split, with another split beside it."""
    if split_named(name) is None:
        return False
    beside = {split_named(path.name) for path in folders_in([folder, *folder.parents][up])}
    return len(beside - {None}) > 1


def _valid_beside(folder: Path, up: int) -> str:
    """The name of the split beside that of training, which is to validate."""
    names = {split_named(path.name): path.name for path in folders_in([folder, *folder.parents][up])}
    return names.get(Split.VALID) or names.get(Split.TEST) or "valid"


def _check_nested(layout: Layout, inner: Mapping[str, Parts]) -> None:
    """One level of folders must be that of the classes."""
    classes = set(inner.values())
    both = sorted({outer for parts in classes for k in range(1, len(parts)) if (outer := parts[:k]) in classes})
    if both:
        within = next(parts for parts in sorted(classes) if parts[: len(both[0])] == both[0] and parts != both[0])
        raise DataError(
            f"{layout.root}: expected images at one level of folders, got images in {'/'.join(both[0])!r} and in "
            f"{'/'.join(within)!r} within it. {_BLOCK}"
        )
    outers: dict[str, set[Parts]] = defaultdict(set)
    for parts in classes:
        outers[parts[-1]].add(parts[:-1])
    twice = sorted(name for name, places in outers.items() if len(places) > 1)
    if twice:
        places = ["/".join((*place, twice[0])) for place in sorted(outers[twice[0]])]
        raise DataError(
            f"{layout.root}: expected one folder for each class, got {twice[0]!r} in several:{first_ten(places)}\n"
            f"{_BLOCK}"
        )
    deep = sorted("/".join(parts) for parts in classes if len(parts) > 1)
    if deep:
        log.warning("%s: class folders lie in others; the innermost name is the class:%s", layout.root, first_ten(deep))


_BLOCK = (
    "If the outer names are the classes: ImageItems.from_folder(root).split_by_pct().label_from_func("
    "lambda path: path.parts[-3]).datamodule(). If they are splits, name them: train=…, valid=…"
)


def _no_classes(layout: Layout, bare: Sequence[str]) -> str:
    nearby = {layout.root, *map(Path, bare), *(Path(one).parent for one in bare)}
    tables = sorted(
        path.name
        for folder in nearby
        for path in folder.iterdir()
        if path.suffix.lower() in (".csv", ".tsv") or "annotations" in path.name
    )
    return (
        f"Expected class folders, got images that lie in none:{first_ten(bare)}\nIf labels are in their names: "
        "ImageData.from_name_re(root, pattern); if in a table: ImageData.from_csv(root, csv=…)"
        + (f", as in {tables[0]!r}, perhaps." if tables else ".")
    )
