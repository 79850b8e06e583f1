"""Short ways to a data module for the common layouts, each a few lines over the data block."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from lightning_finetune.data.batches.data_module import ImageDataModule
from lightning_finetune.data.block.class_folders import classes_of, without_labels
from lightning_finetune.data.block.folder_images import check_class_folders
from lightning_finetune.data.block.items import Items
from lightning_finetune.data.block.layout import Layout, check_beside, check_splits, find_layout
from lightning_finetune.data.block.masks import mask_folders
from lightning_finetune.data.block.numbers import Columns
from lightning_finetune.data.block.options import Options, Stats
from lightning_finetune.data.block.splits import Split, split_column
from lightning_finetune.data.block.tables import Table, column_of, read_table
from lightning_finetune.data.block.torch_datasets import items_of
from lightning_finetune.data.pixels.decode import Resize
from lightning_finetune.data.pixels.mix import Mix
from lightning_finetune.data.pixels.transforms import Augmentation
from lightning_finetune.engine.argument_types import check_types, warn_unused
from lightning_finetune.errors import DataError

log = logging.getLogger(__name__)

# In this order: a saved configuration could not hold a name that was taken for a function first.
Masks = str | Path | Callable[[Path], str | Path] | None
Codes = str | Path | Sequence[str] | None


_VALID_PCT = 0.2  # the part of the images that validates, if nothing is said


class ImageData(ImageDataModule):
    """An :class:`~lightning_finetune.data.batches.data_module.ImageDataModule`, with short ways to make it."""

    @classmethod
    def from_folder(
        cls,
        root: str | Path,
        train: str = "train",
        valid: str = "valid",
        valid_pct: float | None = None,
        seed: int = 42,
        size: int | tuple[int, int] = 224,
        batch_size: int | None = None,
        num_workers: int | None = None,
        augment: Augmentation = "photo",
        masks: Masks = None,
        codes: Codes = None,
        resize: Resize = "crop",
        mix: Mix | None = None,
        stats: Stats | None = None,
        channels: int = 3,
        white: float | None = None,
        cache_images: bool = True,
    ) -> ImageData:
        """From a folder of class folders, with or without folders for training and validation.

        Args:
            root: Holds ``train/CLASS/*.jpg`` and ``valid/CLASS/*.jpg``, and perhaps ``test/CLASS/*.jpg``; or the class
                folders themselves, of which a fifth then validates.
            train: Name of the folder of training images; usual ones such as ``Training`` are found too.
            valid: Name of the folder of validation images; usual ones such as ``val`` or ``dev`` are found too.
            valid_pct: Validate on this part of all images, drawn at random, instead of on a folder.
            seed: Of the split, the order, crops and augmentation.
            size: Height and width in pixels, or one number for both.
            batch_size: Images a batch and process; None: 64, or fewer where there are few training images, down to 16.
            num_workers: Processes that load images; by default one a CPU core, at most 8.
            augment: Augmentation of training images: ``"photo"``, ``"satellite"``, ``"none"``, an ``Augment`` or a
                transform.
            masks: Instead of class folders: name or path of the folder of masks, or a function from image to mask, in a
                configuration by its dotted name.
            codes: Names of the mask classes in the order of their ids, or a file with one per line.
            resize: ``"crop"`` or ``"squish"``.
            mix: ``"mixup"``, ``"cutmix"``, or one of their classes.
            stats: Mean and standard deviation of the channels; by default those of the model's backbone.
            channels: 3 for RGB, 1 for grey, or as many as every image has.
            white: The value that is white in images of more than 8 bits, where their type does not say it.
            cache_images: Decode each file once for a size, where they fit into memory that the workers share.

        Raises:
            DataError: The folder does not hold what is described here.
        """
        check_types(ImageData.from_folder, locals(), DataError)
        if masks is None:
            warn_unused("ImageData", locals(), {"codes": (None,)}, "there are no `masks`")
        root = Path(root)
        masks = _function_or_folder(root, masks)
        layout = find_layout(root, train, valid)
        items = Items.from_folder(root, _not_images(layout, masks))
        if (train, valid) == ("train", "valid") and masks is None:
            check_beside(layout, set(items.files.folders()))
        items = _split_folder(items, layout, valid_pct, seed)
        items = _label_folders(items, layout) if masks is None else items.masks_from(masks, codes)
        return cls(
            items,
            size=size,
            batch_size=batch_size,
            num_workers=num_workers,
            augment=augment,
            resize=resize,
            mix=mix,
            seed=seed,
            stats=stats,
            channels=channels,
            white=white,
            cache_images=cache_images,
        )

    @classmethod
    def from_csv(
        cls,
        root: str | Path,
        csv: str | Path = "labels.csv",
        image_col: str | int = 0,
        label_col: str | int = 1,
        label_delim: str | None = None,
        valid_col: str | None = None,
        valid_pct: float = _VALID_PCT,
        folder: str = "",
        suffix: str = "",
        numbers: Columns | None = None,
        **options: Unpack[Options],
    ) -> ImageData:
        """From a table of file names and labels.

        Args:
            root: Folder of the data set.
            csv: The table, in ``root`` or by its path; all its values are read as text.
            image_col: Column of file names, by name or position.
            label_col: Column of labels.
            label_delim: What separates the labels of an image that has several, such as ``" "``.
            valid_col: Column that is true for validation images; without it a random part validates.
            valid_pct: That part.
            folder: Folder of the images under ``root``.
            suffix: Added to each file name, such as ``".jpg"``.
            numbers: Column, or list of columns, of numbers that an image is labelled with; ``label_col`` is not read.
            **options: Of :class:`~lightning_finetune.data.batches.data_module.ImageDataModule`.

        Raises:
            DataError: The table cannot be read, columns or files are missing, or a name leads out of ``root``.
        """
        check_types(ImageData.from_csv, locals(), DataError)
        table = _table(Path(root), Path(root) / csv, folder, suffix)
        return cls.from_df(
            table, root, image_col, label_col, label_delim, valid_col, valid_pct, folder, suffix, numbers, **options
        )

    @classmethod
    def from_df(
        cls,
        table: Table,
        root: str | Path = ".",
        image_col: str | int = 0,
        label_col: str | int = 1,
        label_delim: str | None = None,
        valid_col: str | None = None,
        valid_pct: float = _VALID_PCT,
        folder: str = "",
        suffix: str = "",
        numbers: Columns | None = None,
        **options: Unpack[Options],
    ) -> ImageData:
        """From a data frame; the arguments are those of :meth:`from_csv`."""
        check_types(ImageData.from_df, locals(), DataError)
        if numbers is not None:
            unused = {"label_col": (1,), "label_delim": (None,)}
            warn_unused("ImageData", locals(), unused, "`numbers` names what images are labelled with")
        if valid_col is not None:
            warn_unused("ImageData", locals(), {"valid_pct": (_VALID_PCT,)}, "`valid_col` says which images validate")
        items = Items.from_df(table, root, image_col, folder, suffix)
        if numbers is None and [*map(str, column_of(table, label_col))] == [*map(str, column_of(table, image_col))]:
            raise DataError(
                f"label_col: expected the column of labels, got {label_col!r}, which names the images. Name one of "
                f"{[*map(str, table.columns)]}."
            )
        if valid_col is None and (column := split_column(table)) is not None:
            log.warning(
                "The column %r says which images validate, but a random part does. To go by it: valid_col=%r.",
                *(column, column),
            )
        items = _split_random(items, valid_pct, options) if valid_col is None else items.split_by_column(valid_col)
        items = items.label_from_df(label_col, label_delim) if numbers is None else items.numbers_from(numbers)
        return cls(items, **options)

    @classmethod
    def from_lists(
        cls,
        files: Iterable[str | Path],
        labels: Sequence[Any],
        root: str | Path = ".",
        label_delim: str | None = None,
        valid_pct: float = _VALID_PCT,
        **options: Unpack[Options],
    ) -> ImageData:
        """From a list of files and one of labels; where labels are lists, images have several."""
        check_types(ImageData.from_lists, locals(), DataError)
        items = _split_random(Items.from_lists(files, root), valid_pct, options)
        return cls(items.label_from_lists(labels, label_delim), **options)

    @classmethod
    def from_name_func(
        cls,
        root: str | Path,
        func: Callable[[str], Any],
        valid_pct: float = _VALID_PCT,
        numbers: list[str] | str | None = None,
        **options: Unpack[Options],
    ) -> ImageData:
        """From all images under a folder, labelled by a function of the file name (without its folder).

        Args:
            root: The folder.
            func: From a name to a label, or to a list of labels; with ``numbers`` to a number, or to a list of numbers.
            valid_pct: Part of the images that validates.
            numbers: Names of the numbers that ``func`` gives, where it gives numbers.
            **options: Of :class:`~lightning_finetune.data.batches.data_module.ImageDataModule`.
        """
        check_types(ImageData.from_name_func, locals(), DataError)
        items = _split_random(Items.from_folder(root), valid_pct, options)
        if numbers is None:
            return cls(items.label_from_func(lambda file: func(file.name)), **options)
        names = [numbers] if isinstance(numbers, str) else numbers
        return cls(items.numbers_from(lambda file: func(file.name), names), **options)

    @classmethod
    def from_name_re(
        cls, root: str | Path, pattern: str, valid_pct: float = _VALID_PCT, **options: Unpack[Options]
    ) -> ImageData:
        """From all images under a folder, labelled by the first group of a pattern, searched in the file name."""
        check_types(ImageData.from_name_re, locals(), DataError)
        items = _split_random(Items.from_folder(root), valid_pct, options)
        return cls(items.label_from_re(pattern, name_only=True), **options)

    @classmethod
    def from_dataset(
        cls,
        train: Any,
        valid: Any = None,
        classes: Sequence[str] | None = None,
        valid_pct: float = _VALID_PCT,
        **options: Unpack[Options],
    ) -> ImageData:
        """From any torch dataset of (image, target) pairs.

        Args:
            train: Images are PIL images, uint8 arrays ``[h, w, 3]`` or tensors ``[3, h, w]``; targets are class
                numbers, 0/1 vectors for several labels, floats for numbers, or masks of class numbers.
            valid: The same for validation; without it a random part of ``train`` validates.
            classes: Names in the order of the class numbers, or of numbers; by default the attribute ``classes``, else
                the positions.
            valid_pct: That part.
            **options: Of :class:`~lightning_finetune.data.batches.data_module.ImageDataModule`.

        Raises:
            DataError: Targets are none of these.
        """
        check_types(ImageData.from_dataset, locals(), DataError)
        if valid is not None:
            warn_unused("ImageData", locals(), {"valid_pct": (_VALID_PCT,)}, "`valid` validates")
        items = items_of(train, valid, classes)
        if valid is None:
            items = _split_random(items, valid_pct, options)
        else:
            items = items.split_by_index(range(len(train), len(items.images)))
        return cls(items, **options)


def _function_or_folder(root: Path, masks: Masks) -> Masks:
    """The function that a configuration names by its dotted name, where no folder is called so.

    Raises:
        DataError: It is neither.
    """
    if not isinstance(masks, str) or "." not in masks or (root / masks).exists() or Path(masks).exists():
        return masks
    module, _, name = masks.rpartition(".")
    try:
        function: Masks = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(
            f"masks: expected a folder under {root}, or the dotted name of a function, got {masks!r}: there is no such "
            f"folder, and {error}."
        ) from error
    return function


def _table(root: Path, path: Path, folder: str, suffix: str) -> Table:
    """The table; where its first row names an image, it has no header."""
    table = read_table(path)
    first = [str(name).strip() for name in table.columns]
    if not any((root / folder / f"{name}{suffix}").is_file() for name in first if name):
        return table
    log.warning("%s: its first row names an image, so it has no header, and the row is read as the others.", path)
    return read_table(path, header=False)


def _split_random(items: Items, valid_pct: float, options: Options) -> Items:
    return items.split_by_pct(valid_pct, options.get("seed", 42))


def _not_images(layout: Layout, masks: Masks) -> list[str]:
    """Folders whose files do not count: of masks, of test images that nobody labelled."""
    if masks is None:
        return without_labels(layout)
    return [] if callable(masks) else [str(folder) for folder in mask_folders(layout.root, masks)]


def _split_folder(items: Items, layout: Layout, valid_pct: float | None, seed: int) -> Items:
    """By folders where there are any; otherwise at random, but never images of a test folder."""
    check_splits(layout, drawn=valid_pct is not None)
    train, valid, test = (layout.named(split) for split in Split)
    if train is not None:
        items = items.split_by_folder(train, valid or "valid", test or "test")
    elif valid_pct is None:
        log.info("%s has no folder of training images: a random fifth of all validates (seed %d).", items.root, seed)
    if train is None or valid_pct is not None:
        items = items.split_by_pct(0.2 if valid_pct is None else valid_pct, seed, test=test)
    return items


def _label_folders(items: Items, layout: Layout) -> Items:
    names = classes_of(layout, sorted(set(items.files.folders())))
    check_class_folders(items.files)
    return items.label_from_lists([names[folder] for folder in items.files.folders()])
