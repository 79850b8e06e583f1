"""What stands in a cell of a table that a spreadsheet may open."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

SEPARATOR = ";"
"""Between labels in one cell."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def joined(labels: Iterable[str]) -> str:
    """Labels in one cell: ``csv.reader([cell], delimiter=";")`` splits them again, whatever they are called."""
    text = io.StringIO()
    csv.writer(text, delimiter=SEPARATOR, lineterminator="\r\n").writerow(list(labels))
    return text.getvalue().removesuffix("\r\n")


def safe(value: Any) -> Any:
    """A text that would be a formula, with an apostrophe before it, as spreadsheets write such texts themselves.

    Anybody may name a file or a class ``=HYPERLINK(…)``; see CWE-1236.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
