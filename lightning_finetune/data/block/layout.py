"""Which folders of a data set are splits, and what else lies beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from lightning_finetune.data.block.folder_images import check_folder, is_litter
from lightning_finetune.data.block.splits import Split, split_named
from lightning_finetune.errors import DataError, did_you_mean, first_ten

NO_CLASS = frozenset({"image", "images", "img", "imgs", "jpegimages", "photo", "photos", "picture", "pictures", "rgb"})
"""Names of folders that hold images of whatever class."""

MASKS = re.compile(r"mask|annotation|segmentation|ground.?truth|^gt$|^labels?$|_labels?$", re.I)
"""Names of folders that hold masks."""

Parts = tuple[str, ...]
"""The names of the folders from a split, or from the root, down to images."""


@dataclass(frozen=True)
class Layout:
    """Folders of a data set.

    Args:
        root: The folder of all.
        splits: What folders under it are for, by their paths from it.
    """

    root: Path
    splits: Mapping[str, Split]

    def named(self, split: Split) -> str | None:
        """The folder of a split, if there is one."""
        return next((name for name, value in self.splits.items() if value == split), None)

    def split_of(self, folder: str | PurePath) -> str | None:
        """The folder of the split that ``folder`` lies in, if it lies in one."""
        return next((name for name in self.splits if PurePath(folder).is_relative_to(self.root / name)), None)

    def below(self, folder: str | PurePath) -> Parts:
        """The names of the folders from that of a split, else from the root, down to ``folder``."""
        return PurePath(folder).relative_to(self.root / (self.split_of(folder) or "")).parts


def find_layout(root: Path, train: str = "train", valid: str = "valid") -> Layout:
    """The splits under a folder, or under its ``images``: by the names that are given, else by the usual ones.

    Args:
        root: The folder.
        train: Name of the folder of training images.
        valid: Name of the folder of validation images.

    Raises:
        DataError: A folder that is named is not there, or several could be meant.
    """
    check_folder(root)
    places = [root, *(folder for folder in folders_in(root) if folder.name.lower() in NO_CLASS)]
    layouts = [_layout_of(root, place, train, valid) for place in places]
    return next((one for one in layouts if one.named(Split.TRAIN) or one.named(Split.VALID)), layouts[0])


def _layout_of(root: Path, place: Path, train: str, valid: str) -> Layout:
    inside = [folder.name for folder in folders_in(place)]
    asked = {Split.TRAIN: (train, "train"), Split.VALID: (valid, "valid"), Split.TEST: ("test", "test")}
    splits: dict[str, Split] = {}
    for split, (name, usual) in asked.items():
        rest = [folder for folder in inside if folder not in splits and folder not in (train, valid)]
        exact = (place / name).is_dir()
        if name != usual and not exact and place == root:
            raise DataError(
                f"{split.name.lower()}: expected a folder {name!r} under {root}, got:{first_ten(inside)}"
                f"{did_you_mean(name, inside)}"
            )
        folders = [name] if exact else [folder for folder in rest if split_named(folder) == split]
        if len(folders) > 1:
            raise DataError(
                f"{place}: expected one folder of {split.name.lower()} images, got {folders}. "
                f"Move those away that are not meant, or name the one: {split.name.lower()}=…"
            )
        splits |= {(place / folder).relative_to(root).as_posix(): split for folder in folders}
    return Layout(root, splits)


def check_beside(layout: Layout, folders: Iterable[str]) -> None:
    """Check that what lies beside splits are splits.

    Args:
        layout: Of the data set.
        folders: That hold images.

    Raises:
        DataError: There are others, whose images would be left out.
    """
    if layout.named(Split.TRAIN) is None and layout.named(Split.VALID) is None:
        return
    outside = {PurePath(folder) for folder in folders if layout.split_of(folder) is None} - {layout.root}
    strangers = sorted({folder.relative_to(layout.root).parts[0] for folder in outside})
    if strangers:
        raise DataError(
            f"{layout.root}: expected only folders of splits, such as {[*layout.splits]}, got others with images:"
            f"{first_ten(strangers)}\n{_way_out(layout, strangers)}"
        )


def check_splits(layout: Layout, *, drawn: bool) -> None:
    """Check that each split is there, if any is.

    Args:
        layout: Of the data set.
        drawn: Validation images are drawn, so that no folder of them is needed.

    Raises:
        DataError: There is none for training or for validation.
    """
    train, valid = layout.named(Split.TRAIN), layout.named(Split.VALID)
    if train is None and valid is not None:
        raise DataError(
            f"{layout.root}: expected a folder of training images beside {valid!r}, such as 'train', got none. "
            "Name it, train=…"
        )
    if train is not None and valid is None and not drawn:
        raise DataError(
            f"{layout.root}: expected images in each split, got none for valid: beside {train!r} lies no folder of "
            "validation images, such as 'valid'. Name it, valid=…, or draw a fifth of the training images, "
            "valid_pct=0.2."
        )


def _way_out(layout: Layout, strangers: Sequence[str]) -> str:
    masks = next((name for name in strangers if MASKS.search(name)), None)
    if masks is not None:
        return f"Did you mean masks={masks!r}, with codes=[names of the classes]?"
    names = [layout.named(split) or split.name.lower() for split in Split]
    lacking = next((split.name.lower() for split in (Split.TRAIN, Split.VALID) if layout.named(split) is None), None)
    if lacking is not None:
        return f"Is one of them the folder of {lacking} images? Name it: {lacking}={strangers[0]!r}. Move others away."
    return (
        f"Move them away. To leave them out: ImageItems.from_folder(root).split_by_folder{tuple(names)}"
        ".label_from_folder().datamodule(); if all of these folders are classes, .split_by_pct() in its place."
    )


def folders_in(folder: Path) -> list[Path]:
    """The visible folders in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_litter(path.name))
