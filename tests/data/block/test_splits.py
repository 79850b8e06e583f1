"""Splits are small pure functions."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_finetune.data.block import splits
from lightning_finetune.data.block.splits import Split, stratified
from lightning_finetune.data.pixels.draws import permutation
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


def drawn(labels: list[tuple[str, ...]], number: int, seed: int = 0) -> list[int]:
    return stratified(permutation(seed, 0, len(labels)), labels, number)


def singles(**counts: int) -> list[tuple[str, ...]]:
    return [(name,) for name, count in counts.items() for _ in range(count)]


@pytest.mark.parametrize("seed", range(20))
def test_two_classes_of_fifteen_are_halved(seed: int):
    labels = singles(a=15, b=15)
    assert Counter(labels[item] for item in drawn(labels, 6, seed)) == {("a",): 3, ("b",): 3}


@pytest.mark.parametrize("seed", range(20))
def test_many_small_classes_share_what_there_is(seed: int):
    labels = singles(**{f"class {k}": 2 for k in range(50)}, large=100)
    counts = Counter(labels[item][0] for item in drawn(labels, 40, seed))
    assert counts["large"] == 20
    assert max(counts[name] for name in counts if name != "large") == 1


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdef"), max_size=4).map(tuple), min_size=2, max_size=60),
    st.integers(1, 59),
    st.integers(0, 5),
)
def test_every_label_stays_and_the_draw_is_its_own(labels: list[tuple[str, ...]], number: int, seed: int):
    found = drawn(labels, number, seed)
    assert len(set(found)) == len(found) <= number
    assert found == drawn(labels, number, seed)
    count = Counter(name for names in labels for name in set(names))
    if not any(all(count[name] > 1 for name in names) for names in labels):
        assert len(found) == 1  # none could be spared
        return
    stays = {name for item in set(range(len(labels))) - set(found) for name in labels[item]}
    assert stays == {name for names in labels for name in names}


def test_images_of_several_labels_are_drawn_by_their_rarest():
    labels = [("common",)] * 60 + [("common", "rare")] * 20
    for seed in range(10):
        assert sum("rare" in labels[item] for item in drawn(labels, 20, seed)) == 5


def test_names_and_their_order_do_not_matter_but_seeds_do():
    labels = singles(a=40, b=20)
    other = [({"a": "z", "b": "y"}[name],) for (name,) in labels]
    assert drawn(labels, 12) == drawn(other, 12)
    assert drawn(labels, 12) != drawn(labels, 12, seed=1)
    assert len(np.unique(drawn(labels, 12))) == 12
