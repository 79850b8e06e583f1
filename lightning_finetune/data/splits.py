"""Which item trains, which validates, which tests: pure functions to one small array."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from lightning_finetune.data.draws import Stream, permutation
from lightning_finetune.data.tables import column_of
from lightning_finetune.errors import DataError, first_ten

Splits: TypeAlias = npt.NDArray[np.int8]


class Split(IntEnum):
    """What an item is for."""

    TRAIN = 0
    VALID = 1
    TEST = 2


def by_pct(count: int, valid_pct: float, seed: int) -> Splits:
    """A random part of ``valid_pct`` (0 to 1, exclusive) validates; at least one item on each side."""
    if not 0 < valid_pct < 1:
        raise DataError(f"valid_pct: expected a part between 0 and 1, such as 0.2, got {valid_pct}.")
    if count < 2:
        raise DataError(f"Expected at least two images to split, got {count}.")
    number = min(max(1, int(count * valid_pct)), count - 1)
    splits = np.full(count, Split.TRAIN, dtype=np.int8)
    splits[permutation(seed, 0, count, Stream.SPLIT)[:number]] = Split.VALID
    return splits


def by_folder(files: Sequence[Path], root: Path, split_of: Mapping[str, Split]) -> tuple[list[int], Splits]:
    """By the first folder under ``root``: the positions of items in one of the named folders, and their splits."""
    folders = [file.relative_to(root).parts[0] for file in files]
    used = [row for row, folder in enumerate(folders) if folder in split_of]
    return used, np.array([split_of[folders[row]] for row in used], dtype=np.int8)


def by_column(table: pd.DataFrame, column: str) -> Splits:
    """By a column that is true (or 1) for validation, or holds the words train, valid, val and test."""
    words = {
        "train": Split.TRAIN, "valid": Split.VALID, "val": Split.VALID, "validation": Split.VALID, "test": Split.TEST,
        "false": Split.TRAIN, "true": Split.VALID, "0": Split.TRAIN, "1": Split.VALID, "0.0": Split.TRAIN,
        "1.0": Split.VALID,
    }  # fmt: skip
    values = [str(value).strip().lower() for value in column_of(table, column)]
    unknown = sorted({value for value in values if value not in words})
    if unknown:
        raise DataError(f"Column {column!r}: expected true/false, 0/1 or train/valid/test, got{first_ten(unknown)}")
    return np.array([words[value] for value in values], dtype=np.int8)


def by_names(files: Sequence[Path], root: Path, names: Sequence[str]) -> Splits:
    """Items whose path under ``root``, or whose bare name, is listed validate."""
    listed = set(names)
    chosen = [{file.name, _under(file, root)} & listed for file in files]
    missing = sorted(listed - set().union(*chosen))
    if missing:
        raise DataError(
            f"Expected every listed validation image among the items; these are not there:{first_ten(missing)}"
        )
    return np.array([Split.VALID if names else Split.TRAIN for names in chosen], dtype=np.int8)


def by_index(count: int, valid: Sequence[int]) -> Splits:
    """Items at the given positions validate."""
    outside = [index for index in valid if not -count <= index < count]
    if outside:
        raise DataError(f"Expected indices of {count} items, got{first_ten(outside)}")
    splits = np.full(count, Split.TRAIN, dtype=np.int8)
    splits[list(valid)] = Split.VALID
    return splits


def by_func(items: Sequence[Any], is_valid: Callable[[Any], bool]) -> Splits:
    """Items for which the function is true validate."""
    return np.array([Split.VALID if is_valid(item) else Split.TRAIN for item in items], dtype=np.int8)


def _under(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()
