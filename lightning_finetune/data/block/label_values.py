"""Labels as people give them: text, numbers, tensors, lists; cleaned, or refused by row."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightning_finetune.errors import DataError, first_ten

_WRITTEN = re.compile(r"\[.*\]|\(.*\)|\{.*\}", re.S)  # a list, tuple or set as Python writes it


def is_missing(value: Any) -> bool:
    """None, blanks, and what numpy and pandas put where nothing is."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # by name: pandas takes half a second to load
        return True
    if isinstance(value, str):
        return not value.strip()
    return isinstance(value, (float, np.floating)) and bool(value != value)


def plain(value: Any) -> Any:
    """A number in place of a tensor or an array that holds only it, a list in place of a longer one, or of a set."""
    if hasattr(value, "tolist") and hasattr(value, "ndim"):
        return value.tolist()
    return sorted(value, key=str) if isinstance(value, (set, frozenset)) else value  # sets have an order of their own


def name_of(value: Any) -> str:
    """The one object of all labels of this name."""
    return sys.intern(clean(str(value)))


def is_several(value: Any) -> bool:
    """Whether a value holds labels rather than being one."""
    return isinstance(value, (list, tuple))


def check_values(values: Sequence[Any], *, several: bool) -> None:
    """Check that all values are one label each, or all hold several.

    Args:
        values: After :func:`plain`.
        several: Whether they are to hold several.

    Raises:
        DataError: Some are neither, and it names their rows; or all are lists as text.
    """
    mixed = [row for row, value in enumerate(values) if is_several(value) != several and not is_missing(value)]
    if mixed:
        raise DataError(f"Expected one label for each item, or a list for each; other rows:{first_ten(mixed)}")
    inner = (value if several and is_several(value) else (value,) for value in values)
    odd = [row for row, names in enumerate(inner) if any(_is_odd(name) for name in names)]
    if odd:
        raise DataError(f"Expected labels that are names or whole numbers; other values in rows:{first_ten(odd)}")
    if several:
        _check_lists(values)
    elif values and all(isinstance(value, str) and _WRITTEN.fullmatch(value.strip()) for value in values):
        raise DataError(
            f"Expected names as labels, got lists written as text, such as {values[0]!r}. Read them first: "
            "table = pandas.read_csv(…), "
            "table[COLUMN] = table[COLUMN].map(ast.literal_eval), ImageData.from_df(table, …)."
        )


def check_not_measured(values: Sequence[Any]) -> None:
    """Check that labels are classes and no measurements.

    Raises:
        DataError: They are numbers with fractions, and half of them are different.
    """
    numbers = [_number(value) for value in values]
    known = {number for number in numbers if number is not None}
    if None in numbers or all(number.is_integer() for number in known) or 2 * len(known) <= len(numbers):
        return
    some = sorted(known)[:3]
    raise DataError(
        f"Expected names of classes as labels, got {len(known)} different numbers, such as {some}. Is this the right "
        "column (label_col)? To learn numbers, write them with a point, name the column: numbers='COLUMN', and train "
        "ImageRegressor."
    )


def _check_lists(values: Sequence[Any]) -> None:
    gaps = [row for row, names in enumerate(values) if is_several(names) and any(map(is_missing, names))]
    if gaps:
        raise DataError(f"Expected lists of labels; rows with an empty one among them:{first_ten(gaps)}")
    lengths = {len(names) for names in values}
    if len(lengths) == 1 and min(lengths) > 1 and all(name in (0, 1) for names in values for name in names):
        raise DataError(
            "Expected lists of the names of labels, got 0/1 vectors. Give names, or a dataset: ImageData.from_dataset."
        )


def _is_odd(value: Any) -> bool:
    return is_several(value) or isinstance(value, (Mapping, bytes)) or (isinstance(value, float) and np.isinf(value))


def _number(value: Any) -> float | None:
    try:
        return float(value.replace(",", ".") if isinstance(value, str) else value)  # as half of the world writes 0,5
    except (TypeError, ValueError):
        return None


def clean(name: str) -> str:
    """A name without blanks around it, each letter in one form: macOS writes accents apart, others do not.

    Names of folders need not be UTF-8, and where the locale is not, Python reads none as such; what is drawn, printed
    and written must be. Bytes that are no UTF-8 are told by their hexadecimal numbers.
    """
    try:
        text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a pair of UTF-16
        text = name.encode("utf-8", "backslashreplace").decode()
    return unicodedata.normalize("NFC", text).strip()
