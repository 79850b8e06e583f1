"""Numbers as labels: one or several an image, from columns of a table, a function or a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor
from typing_extensions import override

from lightning_finetune.data.block.label_values import is_several, plain
from lightning_finetune.data.block.labels import Labels, Targets
from lightning_finetune.data.block.splits import Splits
from lightning_finetune.errors import DataError, first_ten

# In this order: the command would take a list for its text.
Columns: TypeAlias = list[str | int] | str | int


@dataclass(frozen=True)
class NumberLabels(Labels):
    """The numbers of all items; ``classes`` holds the names of the numbers."""

    @property
    @override
    def nouns(self) -> tuple[str, str]:
        return "number", "numbers"

    def names(self) -> None:
        """None: there are no classes of which each split gets its share."""

    def encode(self, splits: Splits) -> tuple[tuple[str, ...], Targets]:
        """The names, and float32 ``[N, K]``."""
        return self.classes or (), np.array(self.values, np.float32)

    @override
    def shows(self, targets: Any) -> None:
        return None

    @override
    def text(self, label: Tensor, classes: Sequence[str]) -> str:
        if len(label) == 1:
            return f"{float(label):.4g}"
        return "\n".join(f"{name} {float(number):.4g}" for name, number in zip(classes, label, strict=True))


def from_numbers(values: Iterable[Any], names: Sequence[str] | None = None) -> NumberLabels:
    """One number an item, or as many of each; text is read as numbers.

    Args:
        values: Numbers, or lists of them; tensors and arrays are what they hold.
        names: Of the numbers; by default their positions.

    Raises:
        DataError: Items hold something else, or not as many numbers as the others.
    """
    given = [plain(value) for value in values]
    rows = [_floats(value) for value in given]
    width = len(names) if names else next((len(row) for row in rows if row is not None), 0)
    wrong = [place for place, row in enumerate(rows) if row is None or len(row) != width]
    if wrong or not width:
        raise DataError(
            f"Expected {width or 'one or several'} finite numbers for each image, got others for {len(wrong)} of "
            f"{len(rows)}; rows:{first_ten([f'{place}: {given[place]!r}' for place in wrong])}\n"
            "Leave those images out, or correct them."
        )
    return NumberLabels("number", rows, tuple(names or map(str, range(width))))


def _floats(value: Any) -> npt.NDArray[np.float32] | None:
    """The numbers of one item; None for what is no finite number."""
    try:
        numbers = np.array([float(part) for part in (value if is_several(value) else (value,))], np.float32)
    except (TypeError, ValueError):
        return None
    return numbers if np.isfinite(numbers).all() else None
