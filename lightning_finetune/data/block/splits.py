"""Which item trains, which validates, which tests: pure functions to one small array."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lightning_finetune.data.block.paths import FilePaths
from lightning_finetune.data.block.tables import column_of
from lightning_finetune.data.pixels.draws import Ints, Stream, permutation
from lightning_finetune.errors import DataError, first_ten

if TYPE_CHECKING:
    import pandas as pd  # heavy, and only its name is needed


Splits: TypeAlias = npt.NDArray[np.int8]

_UNUSED = -1


class Split(IntEnum):
    """What an item is for."""

    TRAIN = 0
    VALID = 1
    TEST = 2


_NAMES = {
    Split.TRAIN: re.compile(r"(train|training|trn)[-_ ]?(set|data|images|imgs)?[-_ ]?\d*", re.I),
    Split.VALID: re.compile(r"(valid|val|validation|validate|dev)[-_ ]?(set|data|images|imgs)?[-_ ]?\d*", re.I),
    Split.TEST: re.compile(r"(test|testing|tst)[-_ ]?(set|data|images|imgs)?[-_ ]?\d*", re.I),
}


def split_named(name: str) -> Split | None:
    """The split that a name usually stands for, in whatever case: ``Train``, ``val2017``, ``test_set``."""
    return next((split for split, pattern in _NAMES.items() if pattern.fullmatch(name.strip())), None)


@dataclass(frozen=True, eq=False)
class RandomSplit:
    """A split that is drawn, and drawn anew once the labels are known, so that each has its share.

    Args:
        valid_pct: Part that validates.
        seed: Of the draw.
        tests: Positions of items that are for the test, and take no part.
    """

    valid_pct: float
    seed: int
    tests: Ints

    def among(self, rows: Ints) -> RandomSplit:
        """The same split of the items at some positions."""
        return replace(self, tests=np.flatnonzero(np.isin(rows, self.tests)))

    def draw(self, count: int, labels: Sequence[Sequence[str]] | None) -> Splits:
        """The splits of ``count`` items, with their ``labels`` where these are known; see :func:`by_pct`."""
        splits = np.full(count, Split.TEST, dtype=np.int8)
        rest = np.setdiff1d(np.arange(count), self.tests)
        known = None if labels is None else [labels[row] for row in rest.tolist()]
        splits[rest] = by_pct(len(rest), self.valid_pct, self.seed, known)
        return splits


def by_pct(count: int, valid_pct: float, seed: int, labels: Sequence[Sequence[str]] | None = None) -> Splits:
    """A random part of ``valid_pct`` (0 to 1, exclusive) validates; at least one item on each side.

    Args:
        count: How many items there are.
        valid_pct: That part.
        seed: The same for the same items gives the same split.
        labels: Of each item. Each label then has its share in validation, and one image at least in training.
    """
    if not 0 < valid_pct < 1:
        raise DataError(f"valid_pct: expected a part between 0 and 1, such as 0.2, got {valid_pct}.")
    if count < 2:
        raise DataError(f"Expected at least two images to split, got {count}.")
    number = min(max(1, int(count * valid_pct)), count - 1)
    order = permutation(seed, 0, count, Stream.SPLIT)
    splits = np.full(count, Split.TRAIN, dtype=np.int8)
    splits[order[:number] if labels is None else stratified(order, labels, number)] = Split.VALID
    return splits


def by_folder(files: FilePaths, root: Path, split_of: Mapping[str, Split]) -> tuple[Ints, Splits]:
    """By folders under ``root``: the positions of items in one of the named folders, and their splits."""
    places = {root / name: split for name, split in split_of.items()}

    def split(folder: str) -> int:
        inner = Path(folder)
        return next((places[place] for place in (inner, *inner.parents) if place in places), _UNUSED)

    splits = {folder: split(folder) for folder in set(files.folders())}
    split_of_each = np.fromiter((splits[folder] for folder in files.folders()), np.int8, len(files))
    used = np.flatnonzero(split_of_each != _UNUSED)
    return used, split_of_each[used]


def by_column(table: pd.DataFrame, column: str) -> Splits:
    """By a column that is true (or 1) for validation, or holds the words train, valid, val and test."""
    values = [str(value).strip().lower() for value in column_of(table, column)]
    words = {value: _FLAGS.get(value, split_named(value)) for value in set(values)}
    unknown = sorted(value for value, split in words.items() if split is None)
    if unknown:
        raise DataError(f"Column {column!r}: expected true/false, 0/1 or train/valid/test, got{first_ten(unknown)}")
    return np.array([words[value] for value in values], dtype=np.int8)


# What may stand in a column that says whether an image validates.
_FLAGS = {**dict.fromkeys(("false", "0", "0.0"), Split.TRAIN), **dict.fromkeys(("true", "1", "1.0"), Split.VALID)}


def split_column(table: pd.DataFrame) -> str | None:
    """The column that holds the words train, valid or test, or flags under a name such as ``is_valid``, if one does."""
    for place, column in enumerate(map(str, table.columns)):
        values = {str(value).strip().lower() for value in column_of(table, place)}
        is_flag = values <= {*_FLAGS} and split_named(re.sub(r"^is[-_ ]?", "", column, flags=re.I)) == Split.VALID
        if len(values) > 1 and (is_flag or all(split_named(value) is not None for value in values)):
            return column
    return None


def by_names(files: Sequence[Path], root: Path, names: Sequence[str]) -> Splits:
    """Items whose path under ``root``, or whose bare name, is listed validate."""
    listed, seen = set(names), set[str]()
    splits = np.full(len(files), Split.TRAIN, dtype=np.int8)
    for row, file in enumerate(files):
        if names_of_file := {file.name, _under(file, root)} & listed:
            splits[row] = Split.VALID
            seen |= names_of_file
    if missing := sorted(listed - seen):
        raise DataError(
            f"Expected every listed validation image among the items; these are not there:{first_ten(missing)}"
        )
    return splits


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


def stratified(order: Ints, labels: Sequence[Sequence[str]], number: int) -> list[int]:
    """Draw items so that each label has about the share in them that it has in all.

    An item of several labels counts for its rarest one. An item stays that is the last with one of its labels, even if
    fewer than ``number`` are drawn then; but one is drawn in any case.

    Args:
        order: Of the items, at random; all that the draw depends on besides the labels.
        labels: Of each item; none is a kind of its own.
        number: How many items to draw.

    Returns:
        The positions of those drawn.
    """
    left = Counter(name for names in labels for name in set(names))
    strata = [min(names, key=lambda name: (left[name], name), default="") for names in labels]
    drawn: list[int] = []
    for item in _by_quota(order, strata, number):
        if len(drawn) == number:
            break
        names = set(labels[item])
        if all(left[name] > 1 for name in names):
            drawn.append(item)
            left.subtract(names)
    return drawn or order[:1].tolist()


def _by_quota(order: Ints, strata: Sequence[str], number: int) -> list[int]:
    """The items in ``order``, first those within the quota of their stratum."""
    quota = _quotas([strata[item] for item in order.tolist()], number)
    within: list[int] = []
    beyond: list[int] = []
    for item in order.tolist():
        quota[strata[item]] -= 1
        (within if quota[strata[item]] >= 0 else beyond).append(item)
    return within + beyond


def _quotas(strata: Sequence[str], number: int) -> Counter[str]:
    """How many of ``number`` belong to each stratum by the largest remainders; of equal ones to the first met."""
    sizes = Counter(strata)  # in the order in which they are met
    shares = np.array([*sizes.values()]) * number
    quotas, rest = np.divmod(shares, len(strata))
    quotas[np.argsort(-rest, kind="stable")[: number - quotas.sum()]] += 1
    return Counter(dict(zip(sizes, quotas.tolist(), strict=True)))
