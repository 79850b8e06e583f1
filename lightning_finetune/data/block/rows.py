"""A row of anybody's data set or stream: its image and its target; and all images of such a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import Subset

from lightning_finetune.data.pixels.decode import ImageSource
from lightning_finetune.data.pixels.image_files import image_in
from lightning_finetune.errors import DataError

IMAGES = ("image", "img", "pixel_values", "jpg", "jpeg", "png", "webp")
"""Keys of the image of a row that is a dict: of Hugging Face, of LitData's examples, of WebDataset."""

TARGETS = ("label", "labels", "mask", "target", "cls", "class", "fine_label")
"""Keys of its target."""


def pair_of(row: Any) -> tuple[Any, Any]:
    """The image and the target of a row: the first two of a tuple, or of a dict by their usual keys.

    Args:
        row: Of a data set or a stream. An image that is still encoded (``bytes``, or a dict that holds them) is opened.

    Raises:
        DataError: The row has another form.
    """
    if isinstance(row, Mapping):
        image, target = (row[key_in(row, known, what)] for known, what in ((IMAGES, "image"), (TARGETS, "target")))
    elif isinstance(row, (tuple, list)) and len(row) >= 2:
        image, target = row[0], row[1]
    else:
        raise DataError(
            f"Expected a dataset of (image, target) pairs, got items that are of the class {type(row).__name__}. Wrap "
            "it in one whose `__getitem__` returns both."
        )
    encoded = image.get("bytes") if isinstance(image, Mapping) else image
    image = image_in(encoded) if isinstance(encoded, bytes) else image
    return image, int(target) if isinstance(target, bytes) else target


def key_in(names: Mapping[str, Any] | Sequence[str], known: Sequence[str], what: str) -> str:
    """The first of the ``known`` keys that is among ``names``.

    Raises:
        DataError: None is.
    """
    found = next((key for key in known if key in names), None)
    if found is None:
        raise DataError(
            f"Expected rows with the {what} under one of {', '.join(known)}, got the keys {', '.join(names)}. Rename "
            "that column, or let each row be a pair (image, target), such as with `map`."
        )
    return found


def columns_of(dataset: Any) -> list[str]:
    """The columns of a data set that has such (Hugging Face's); none of any other."""
    return list(getattr(dataset, "column_names", None) or ())


def class_names(dataset: Any) -> Sequence[str] | None:
    """The classes that a data set names itself: in ``classes``, or with its column of targets (Hugging Face's)."""
    if isinstance(dataset, Subset):
        return class_names(dataset.dataset)
    named: Sequence[str] | None = getattr(dataset, "classes", None)
    columns = columns_of(dataset)
    if named is None and columns:
        feature = (getattr(dataset, "features", None) or {}).get(key_in(columns, TARGETS, "target"))
        named = getattr(feature, "names", None)
    return named


class Pictures(Sequence[ImageSource]):
    """The images of a dataset of pairs, read when they are asked for."""

    def __init__(self, pairs: Any) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, item: Any) -> Any:
        return pair_of(self.pairs[int(item)])[0]
