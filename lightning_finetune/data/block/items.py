"""The data block: which images, how split, how labelled; each step a small function that returns a new block."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import Self

from lightning_finetune.data.block import labels as labelling
from lightning_finetune.data.block import splits as splitting
from lightning_finetune.data.block.folder_images import image_files, why_no_images
from lightning_finetune.data.block.label_values import is_missing
from lightning_finetune.data.block.labels import Labels
from lightning_finetune.data.block.masks import mask_finder, read_codes
from lightning_finetune.data.block.numbers import Columns, from_numbers
from lightning_finetune.data.block.paths import FilePaths, select
from lightning_finetune.data.block.splits import RandomSplit, Split, Splits
from lightning_finetune.data.block.tables import check_one_column, column_of, read_lines
from lightning_finetune.data.block.whereabouts import advice_on
from lightning_finetune.data.pixels.decode import ImageSource
from lightning_finetune.data.pixels.draws import Ints
from lightning_finetune.engine.argument_types import check_types
from lightning_finetune.errors import DataError, first_ten

if TYPE_CHECKING:
    import pandas as pd  # heavy, and only its name is needed

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Items:
    """Images on their way to a data module: where they are, how they are split, and what they show.

    Args:
        images: The sources of all images.
        root: The folder that paths are told from.
        table: The row of each image, where they come from a table.
        splits: What each image is for.
        labels: What each image shows.
        drawn: How the splits were drawn, where they were.
    """

    images: Sequence[ImageSource]
    root: Path
    table: pd.DataFrame | None = None
    splits: Splits | None = None
    labels: Labels | None = None
    drawn: RandomSplit | None = None

    # --- images -----------------------------------------------------------------------------------------------------

    @classmethod
    def from_folder(cls, root: str | Path, skip: Iterable[str] = ()) -> Self:
        """All images under a folder, sorted by path; folders named in ``skip`` are left out.

        Raises:
            DataError: There is no such folder, or no image in it.
        """
        check_types(Items.from_folder, locals(), DataError)
        root = Path(root)
        files = image_files(root, skip=skip)
        if not files:
            raise DataError(f"{root}: expected images (such as .jpg or .png), found none. {why_no_images(root)}")
        return cls(files, root)

    @classmethod
    def from_df(
        cls, table: pd.DataFrame, root: str | Path = ".", column: str | int = 0, folder: str = "", suffix: str = ""
    ) -> Self:
        """The images that a column of a table names.

        Args:
            table: One row per image.
            root: Folder of the data set.
            column: Name or position of the column with file names.
            folder: Folder of the images under ``root``.
            suffix: Added to each name, such as ``".jpg"``.

        Raises:
            DataError: The column or files are missing, or a name leads out of ``root``.
        """
        check_types(Items.from_df, locals(), DataError)
        if "\0" in str(root):
            raise DataError(f"root: expected a folder, got {str(root)!r}.")
        given = column_of(table, column)
        if missing := [row for row, name in enumerate(given) if is_missing(name)]:
            raise DataError(f"Expected the name of an image in each row; rows without one:{first_ten(missing)}")
        names = [str(name).strip() for name in given]
        try:
            items = cls.from_lists((Path(folder, f"{name}{suffix}") for name in names), root)
        except DataError as error:
            raise DataError(f"{error}{advice_on(Path(root), names, table, folder, suffix)}") from error
        return items.with_table(table)

    @classmethod
    def from_lists(cls, files: Iterable[str | Path], root: str | Path = ".") -> Self:
        """The files of a list, taken from ``root`` where they are relative.

        Raises:
            DataError: Files are missing, or a relative one leads out of ``root``.
        """
        check_types(Items.from_lists, locals(), DataError)
        root, paths = Path(root), FilePaths()
        unnamable, escaped, missing = list[str](), list[Path](), list[Path]()
        for path in map(Path, files):
            file = root / path
            if "\0" in str(path):
                unnamable.append(repr(str(path)))
            # By its name alone: a link within the data set is its owner's to set.
            elif not path.is_absolute() and os.path.normpath(path).startswith(".."):
                escaped.append(path)
            elif not file.is_file():
                missing.append(file)
            paths.append(file)
        if unnamable:
            raise DataError(f"Expected names of files; these hold a null byte:{first_ten(unnamable)}")
        if escaped:
            raise DataError(f"Expected files under {root}; these lead out of it:{first_ten(escaped)}")
        if not paths:
            raise DataError(f"Expected the names of images under {root}, got none.")
        if missing:
            raise DataError(f"Expected {len(paths)} images; {len(missing)} are not there:{first_ten(missing)}")
        return cls(paths, root)

    # --- splits -----------------------------------------------------------------------------------------------------

    def split_by_pct(self, valid_pct: float = 0.2, seed: int = 42, test: str | None = None) -> Self:
        """A random part validates; the same for the same files, labels and seed on every machine.

        Each label has about its share of both sides, whether items are labelled before or after; several labels count
        by the rarest of an image. Training has at least one image of each.

        Args:
            valid_pct: That part, 0 to 1.
            seed: Of the draw.
            test: Name of a folder under ``root`` whose images are for the test.
        """
        check_types(Items.split_by_pct, locals(), DataError)
        tests = np.empty(0, np.int64)
        if test is not None:
            tests, _ = splitting.by_folder(self.files, self.root, {test: Split.TEST})
        return dataclasses.replace(self, drawn=RandomSplit(valid_pct, seed, tests))._draw()

    def split_by_folder(self, train: str = "train", valid: str = "valid", test: str = "test") -> Self:
        """By the folder under ``root`` that an image lies in; images elsewhere are left out, and the log says so."""
        check_types(Items.split_by_folder, locals(), DataError)
        split_of = {train: Split.TRAIN, valid: Split.VALID, test: Split.TEST}
        files = self.files
        used, splits = splitting.by_folder(files, self.root, split_of)
        unused = sorted(set(files.take(np.setdiff1d(np.arange(len(files)), used))))
        if unused:
            log.warning("%d images lie in none of %s and are left out:%s", len(unused), [*split_of], first_ten(unused))
        return self._only(used)._split(splits)

    def split_by_column(self, column: str = "is_valid") -> Self:
        """By a column of the table: true, 1 or ``valid`` validates; it may also hold ``train`` and ``test``."""
        check_types(Items.split_by_column, locals(), DataError)
        return self._split(splitting.by_column(self._table("split_by_column"), column))

    def split_by_file(self, file: str | Path = "valid.txt") -> Self:
        """The images that a text file lists, one per line, validate.

        Raises:
            DataError: There is no such file, or it lists images that are not among the items.
        """
        check_types(Items.split_by_file, locals(), DataError)
        listing = self.root / file
        if not listing.is_file():
            raise DataError(f"{listing}: expected a file that lists validation images, but there is none.")
        lines = read_lines(listing)
        return self._split(splitting.by_names(self.files, self.root, [line.strip() for line in lines if line.strip()]))

    def split_by_index(self, valid: Sequence[int]) -> Self:
        """The items at these positions validate."""
        check_types(Items.split_by_index, locals(), DataError)
        return self._split(splitting.by_index(len(self.images), valid))

    def split_by_func(self, is_valid: Callable[[Path], bool]) -> Self:
        """The images for which the function is true validate."""
        check_types(Items.split_by_func, locals(), DataError)
        return self._split(splitting.by_func(self.files, is_valid))

    # --- labels -----------------------------------------------------------------------------------------------------

    def label_from_folder(self) -> Self:
        """By the name of the folder an image lies in."""
        return self._label(labelling.from_folder(self.files))

    def label_from_re(self, pattern: str, name_only: bool = False) -> Self:
        """By the first group of a regular expression, searched in the path (with ``/``) or only the name of a file."""
        check_types(Items.label_from_re, locals(), DataError)
        names = (file.name if name_only else file.as_posix() for file in self.files)
        try:
            return self._label(labelling.from_re(names, pattern))
        except DataError as error:
            raise DataError(f"{error}{_of_paths(pattern, self.files) if name_only else ''}") from error

    def label_from_func(self, func: Callable[[Path], Any], label_delim: str | None = None) -> Self:
        """By a function of the path: one name, or a list of names for several labels."""
        check_types(Items.label_from_func, locals(), DataError)
        return self._label(labelling.from_values(map(partial(_result, func), self.files), label_delim))

    def label_from_df(self, column: str | int = 1, label_delim: str | None = None) -> Self:
        """By a column of the table; with ``label_delim``, such as ``" "``, each image has several labels."""
        check_types(Items.label_from_df, locals(), DataError)
        table = self._table("label_from_df")
        values = column_of(table, column)
        check_one_column(table, column)
        return self._label(labelling.from_values(values, label_delim))

    def label_from_lists(self, values: Sequence[Any], label_delim: str | None = None) -> Self:
        """By a list with one entry an image.

        Raises:
            DataError: The lists have different lengths.
        """
        check_types(Items.label_from_lists, locals(), DataError)
        if len(values) != len(self.images):
            raise DataError(f"Expected one label for each of {len(self.images)} images, got {len(values)}.")
        return self._label(labelling.from_values(values, label_delim))

    def masks_from(
        self, masks: str | Path | Callable[[Path], str | Path], codes: str | Path | Sequence[str] | None = None
    ) -> Self:
        """By mask files.

        Args:
            masks: Name or path of the folder of masks (see :func:`~lightning_finetune.data.block.masks.mask_finder`),
                or a function from the path of an image to that of its mask.
            codes: Names of the classes in the order of their ids, or a file with one per line; else ``codes.txt``.
        """
        check_types(Items.masks_from, locals(), DataError)
        mask_of = masks if callable(masks) else mask_finder(self.root, masks, self.files.texts())
        mask_files = FilePaths(Path(_result(mask_of, file)) for file in self.files)
        rows = _no_masks(self.files, mask_files)
        images = self._only(rows)
        return images._label(labelling.from_masks(images.files, mask_files.take(rows), read_codes(self.root, codes)))

    def numbers_from(self, source: Columns | Callable[[Path], Any], names: Sequence[str] | None = None) -> Self:
        """By numbers, one or several an image.

        Args:
            source: A column of the table or a list of columns; or a function from the path of an image to its
                number, or to a list of its numbers.
            names: Of the numbers; by default those of the columns, else their positions.
        """
        check_types(Items.numbers_from, locals(), DataError)
        if callable(source):
            return self._label(from_numbers(map(partial(_result, source), self.files), names))
        columns, table = source if isinstance(source, list) else [source], self._table("numbers_from")
        values = zip(*(column_of(table, column) for column in columns), strict=True)
        return self._label(from_numbers(values, names or [str(column) for column in columns]))

    # --- end ----------------------------------------------------------------------------------------------------------

    def complete(self) -> tuple[Splits, Labels]:
        """Splits and labels.

        Raises:
            DataError: One of them is missing.
        """
        if self.splits is None:
            raise DataError("Expected items that are split; call a split_by_… method first.")
        if self.labels is None:
            raise DataError("Expected items that are labelled; call a label_… method or masks_from first.")
        return self.splits, self.labels

    def with_table(self, table: pd.DataFrame) -> Self:
        """The same images with a table of one row each."""
        return dataclasses.replace(self, table=table)

    @property
    def files(self) -> FilePaths:
        """The paths of the images.

        Raises:
            DataError: Images that are not files have no path.
        """
        if isinstance(self.images, FilePaths):
            return self.images
        if not all(isinstance(image, Path) for image in self.images):
            raise DataError("Expected images in files, because their paths are asked for; got images in memory.")
        return FilePaths(self.images)  # type: ignore[arg-type]  # they are

    def _only(self, rows: Ints) -> Self:
        """The items at some positions."""
        if len(rows) == len(self.images):
            return self
        table = None if self.table is None else self.table.iloc[rows]
        labels, splits = self.labels, None if self.splits is None else self.splits[rows]
        if labels is not None:
            labels = dataclasses.replace(labels, values=select(labels.values, rows))
        drawn = None if self.drawn is None else self.drawn.among(rows)
        images = select(self.images, rows)
        return dataclasses.replace(self, images=images, table=table, splits=splits, labels=labels, drawn=drawn)._draw()

    def _split(self, splits: Splits) -> Self:
        return dataclasses.replace(self, splits=splits, drawn=None)

    def _label(self, labels: Labels) -> Self:
        return dataclasses.replace(self, labels=labels)._draw()

    def _draw(self) -> Self:
        """The same items, with the splits that are to be drawn."""
        if self.drawn is None:
            return self
        names = None if self.labels is None else self.labels.names()
        return dataclasses.replace(self, splits=self.drawn.draw(len(self.images), names))

    def _table(self, step: str) -> pd.DataFrame:
        if self.table is None:
            raise DataError(f"{step}: expected items of a table; begin with ImageItems.from_df.")
        return self.table


def _result(func: Callable[[Path], Any], file: Path) -> Any:
    """What somebody's function says of a file.

    Raises:
        DataError: It fails on it.
    """
    try:
        return func(file)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{file}: the function of labels or masks failed: {error!r}. Mend or replace it.") from error


def _of_paths(pattern: str, files: FilePaths) -> str:
    """Advice for a pattern that is one of paths, where names were searched."""
    with suppress(re.error):
        if re.search(pattern, files[0].as_posix()):
            return "\nIt matches paths: ImageItems.from_folder(root).split_by_pct().label_from_re(pattern).datamodule()"
    return ""


def _no_masks(files: FilePaths, masks: FilePaths) -> Ints:
    """The positions of images; masks that lie beside them and have none themselves are no images."""
    of_others = set(masks.texts())
    pairs = zip(files.texts(), masks.texts(), strict=True)
    kept = [file not in of_others or (mask != file and Path(mask).is_file()) for file, mask in pairs]
    rows = np.flatnonzero(kept)
    if not len(rows):
        raise DataError("masks: expected a file of its own for the mask of each image, got that of the image.")
    return rows
