"""Tables of file names and labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from lightning_finetune.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

Table: TypeAlias = "pd.DataFrame"
"""For modules that the command line reads: it would load what stands under TYPE_CHECKING in them."""


def read_table(path: Path) -> pd.DataFrame:
    """A CSV with all values as text, so that a name like ``007`` or a label like ``NA`` stays what it is.

    Raises:
        DataError: There is no such file, or it is empty, malformed or not UTF-8.
    """
    import pandas as pd  # only now, as it takes half a second to load

    if not path.is_file():
        raise DataError(f"{path}: expected a table, but there is no such file.")
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8, but {error}. Save the table as UTF-8.") from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise DataError(f"{path}: expected a table with a header and commas; {error}.") from error


def column_of(table: pd.DataFrame, column: str | int) -> list[Any]:
    """The values of a column by name or position.

    Raises:
        DataError: There is no such column; the message names those that there are.
    """
    names = [str(name) for name in table.columns]
    if isinstance(column, int) and column < len(names):
        return table.iloc[:, column].tolist()
    if column not in names:
        raise DataError(f"Expected a column {column!r}, got {names}.{did_you_mean(str(column), names)}")
    return table.iloc[:, names.index(str(column))].tolist()
