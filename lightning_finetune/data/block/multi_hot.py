"""Several labels an item, for any number of labels."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


class MultiHot:
    """Rows of 0 and 1, of which only the places of the ones are kept: a million rows of ten thousand take 40 GB.

    Args:
        labels: For each item the numbers of its labels.
        width: How many labels there are.

    Attributes:
        shape: Items and labels.
    """

    def __init__(self, labels: Iterable[Sequence[int]], width: int) -> None:
        numbers, ends = array("i"), array("q", [0])
        for row in labels:
            numbers.extend(row)
            ends.append(len(numbers))
        self._numbers, self._ends = np.asarray(numbers), np.asarray(ends)
        self.shape = (len(ends) - 1, width)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Any:
        """The rows at some places, float32 ``[len(rows), width]``."""
        dense = np.zeros((len(rows), self.shape[1]), dtype=np.float32)
        for place, row in enumerate(rows):
            dense[place, self.of(row)] = 1
        return dense

    def of(self, row: int) -> npt.NDArray[np.int32]:
        """The numbers of the labels of one item."""
        numbers: npt.NDArray[np.int32] = self._numbers[self._ends[row] : self._ends[row + 1]]
        return numbers

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """All rows."""
        return np.asarray(self[np.arange(len(self))], dtype=dtype)
