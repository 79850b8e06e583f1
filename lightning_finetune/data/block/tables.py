"""Tables of file names and labels."""

from __future__ import annotations

import csv
import logging
import warnings
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from lightning_finetune.errors import DataError, did_you_mean, first_ten

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

_LINES = 20  # of a table that are looked at to see how it is made

_ONES, _NOUGHTS = ("1", "1.0", "True", "true"), ("0", "0.0", "-1", "-1.0", "False", "false")

Table: TypeAlias = "pd.DataFrame"
"""For modules that the command line reads: it would load what stands under TYPE_CHECKING in them."""


def read_table(path: Path, *, header: bool = True) -> pd.DataFrame:
    """A table with all values as text, so that a name like ``007`` or a label like ``NA`` stays what it is.

    Args:
        path: Columns are separated by commas; by semicolons, tabs, bars or blanks where these alone separate any.
        header: Whether the first row holds the names of columns, which are else their numbers.

    Raises:
        DataError: There is no such file, or it is empty, malformed or not UTF-8.
    """
    import pandas as pd  # only now, as it takes half a second to load

    if not path.is_file():
        raise DataError(f"{path}: expected a table, but there is no such file.")
    options: dict[str, Any] = {"dtype": str, "keep_default_na": False, "index_col": False, "skipinitialspace": True}
    try:
        _check_text(path)
        separator = _separator(path)
        with warnings.catch_warnings(record=True) as longer:
            warnings.simplefilter("always", pd.errors.ParserWarning)
            table = pd.read_csv(
                path, sep=separator, encoding="utf-8-sig", header=0 if header else None, engine="c", **options
            )
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8, but {error}. Save the table as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path}: expected a table that can be read, but: {error.strerror}.") from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError, csv.Error) as error:
        raise DataError(f"{path}: expected a table with a header and commas; {error}.") from error
    if longer:
        _check_surplus(path, separator)
    if separator != ",":
        log.info("%s: columns are separated by %r.", path, separator)
    filled = (table.fillna("") != "").any(axis=1)  # workbooks are exported with rows of separators alone
    named: pd.DataFrame = table[filled].reset_index(drop=True).rename(columns=str)
    return named


def _check_text(path: Path) -> None:
    """Check that a file is no workbook or database, whatever its name.

    Raises:
        DataError: It holds bytes of 0, as no text does.
    """
    with path.open("rb") as file:
        start = file.read(4096)
    if b"\0" in start and not start.startswith((b"\xff\xfe", b"\xfe\xff")):  # the marks of UTF-16, which is said
        kinds = {b"PK": " (an Excel workbook?)", b"SQLite": " (a SQLite database)"}
        kind = next((kind for mark, kind in kinds.items() if start.startswith(mark)), "")
        raise DataError(f"{path}: expected a table as text, got other bytes{kind}. Export it as CSV, in UTF-8.")


def _separator(path: Path) -> str:
    """What separates the columns: where no comma does, what splits all of the first lines alike."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = [line for line in (text.rstrip("\r\n") for text in islice(file, _LINES)) if line]
    if any(len(row) > 1 for row in csv.reader(lines[:1])):
        return ","
    for separator in (";", "\t", "|", " "):
        counts = {len(row) for row in csv.reader(lines, delimiter=separator, skipinitialspace=True)}
        if len(counts) == 1 and min(counts) > 1:
            return separator
    return ","


def _check_surplus(path: Path, separator: str) -> None:
    """Check that what lies beyond the last column is blank, as a separator at the end of each row leaves it."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=separator, skipinitialspace=True)
        count = len(next(rows, []))
        longer = [rows.line_num for row in rows if any(cell.strip() for cell in row[count:])]
    if longer:
        raise DataError(
            f"{path}: expected {count} columns, as in its first row, got more in lines:{first_ten(longer)}\n"
            f"Put values that hold {separator!r} in quotes."
        )


def check_one_column(table: pd.DataFrame, column: str | int) -> None:
    """Check that a column of labels that nobody named is not the first of many, one for each label.

    Raises:
        DataError: It and those after it hold 0 (or -1) and 1 alone, or truths.
    """
    names = [str(name) for name in table.columns[column:]] if isinstance(column, int) else []
    first = table.iloc[:_LINES, -len(names) :]  # of a large table, before all of it is looked at
    if len(names) < 2 or not len(table) or not bool(first.astype(str).isin([*_ONES, *_NOUGHTS]).all(axis=None)):
        return
    flags = table.iloc[:, -len(names) :].astype(str)
    ones = flags.isin(_ONES)
    if not bool((ones | flags.isin(_NOUGHTS)).all(axis=None)):
        return
    is_one_each = bool((ones.sum(axis=1) == 1).all())
    if len(names) == 2 and not is_one_each:  # a label of 0 and 1, and a column of the validation set
        return
    delim = "" if is_one_each else ", label_delim=' '"
    raise DataError(
        f"Expected the names of labels in one column, got yes and no in {names[:10]}, a column for each label. Join "
        f"their names, names = list(table.columns[{column}:]), table['labels'] = table[names].astype(float).apply("
        f"lambda row: ' '.join(row.index[row == 1]), axis=1), and give label_col='labels'{delim}. If {names[0]!r} "
        f"alone is the label, name it: label_col={names[0]!r}."
    )


def read_lines(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        DataError: It cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path}: expected a text file that can be read, but: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8, but {error}. Save it as UTF-8.") from error


def column_of(table: pd.DataFrame, column: str | int) -> list[Any]:
    """The values of a column by name or position.

    Raises:
        DataError: There is no such column; the message names those that there are.
    """
    if not hasattr(table, "columns"):
        raise DataError(f"table: expected a data frame of pandas, got {type(table).__name__}.")
    names = [str(name) for name in table.columns]
    if isinstance(column, int) and column < len(names):
        return table.iloc[:, column].tolist()
    if column not in names:
        raise DataError(f"Expected a column {column!r}, got {names}.{did_you_mean(str(column), names)}")
    return table.iloc[:, names.index(str(column))].tolist()
