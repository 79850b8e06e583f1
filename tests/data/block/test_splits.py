"""Splits are small pure functions."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lightning_finetune.data.block import splits
from lightning_finetune.data.block.splits import Split
from lightning_finetune.errors import DataError


def test_a_random_part_is_of_the_size_asked_and_repeats():
    first = splits.by_pct(100, 0.25, seed=1)
    assert (first == Split.VALID).sum() == 25
    assert np.array_equal(first, splits.by_pct(100, 0.25, seed=1))
    assert not np.array_equal(first, splits.by_pct(100, 0.25, seed=2))


@pytest.mark.parametrize(("count", "part", "valid"), [(2, 0.01, 1), (2, 0.99, 1), (9, 0.2, 1), (10, 0.2, 2)])
def test_neither_side_is_empty(count: int, part: float, valid: int):
    assert (splits.by_pct(count, part, seed=0) == Split.VALID).sum() == valid


@pytest.mark.parametrize("part", [0, 1, 20])
def test_a_part_is_between_nought_and_one(part: float):
    with pytest.raises(DataError, match="valid_pct"):
        splits.by_pct(10, part, seed=0)


WORDS = [["1", "0", "0"], ["valid", "train", "Train"], ["val", "train", "train"]]


@pytest.mark.parametrize("values", [[True, False, False], [1, 0, 0], [1.0, 0.0, 0.0], *WORDS])
def test_columns_may_say_it_in_any_way(values: list):
    assert splits.by_column(pd.DataFrame({"v": values}), "v").tolist() == [Split.VALID, Split.TRAIN, Split.TRAIN]


def test_a_column_with_other_words_or_none_of_that_name_is_an_error():
    table = pd.DataFrame({"is_valid": ["yes", "no"]})
    with pytest.raises(DataError, match="yes"):
        splits.by_column(table, "is_valid")
    with pytest.raises(DataError, match="Did you mean 'is_valid'"):
        splits.by_column(table, "isvalid")


def test_listed_names_may_be_paths_or_bare():
    files = [Path("/r/a/1.jpg"), Path("/r/b/2.jpg"), Path("/r/b/3.jpg")]
    assert splits.by_names(files, Path("/r"), ["a/1.jpg", "3.jpg"]).tolist() == [1, 0, 1]
    with pytest.raises(DataError, match=r"4\.jpg"):
        splits.by_names(files, Path("/r"), ["4.jpg", "3.jpg"])


def test_indices_count_from_either_end_but_not_beyond():
    assert splits.by_index(4, [0, -1]).tolist() == [1, 0, 0, 1]
    with pytest.raises(DataError, match="9"):
        splits.by_index(4, [9])
