"""Random draws leave every label its share, and depend on nothing but order and labels."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_finetune.data.block.strata import stratified
from lightning_finetune.data.pixels.draws import permutation


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
