"""Counts of what is taken for what, of few classes and of very many."""

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, multilabel_confusion_matrix

from lightning_finetune.tasks import ImageClassifier, MultiLabelClassifier
from lightning_finetune.tasks.measures.confusion import Confusion, PairCounts, Pairs, drawable, pairs_of, rates


def pairs(matrix: np.ndarray) -> set[tuple[int, int, int]]:
    return {(true, found, matrix[true, found]) for true, found in zip(*np.nonzero(matrix), strict=True)}


@pytest.mark.parametrize("ignored", [None, 3])
def test_pairs_are_those_of_scikit_learns_matrix(ignored: int | None) -> None:
    draws = torch.Generator().manual_seed(0)
    truth, said = torch.randint(0, 30, (2, 5, 40), generator=draws)
    counts = PairCounts(30, ignored)
    for one, other in zip(truth, said, strict=True):
        counts.update(other, one)
    kept = truth != ignored if ignored is not None else truth >= 0
    expected = confusion_matrix(truth[kept], said[kept], labels=range(30))
    assert {tuple(row) for row in counts.compute().tolist()} == pairs(expected)
    found = Pairs(*counts.compute().numpy().T)
    for ours, theirs in zip(rates(found, 30), rates(expected, 30), strict=True):
        assert np.array_equal(ours, theirs)
    hits = expected.diagonal()
    assert np.array_equal(rates(expected, 30), [hits, expected.sum(0) - hits, expected.sum(1) - hits])


def test_the_most_confused_come_first_and_equals_in_the_order_of_the_classes() -> None:
    matrix = np.array([[9, 2, 0], [3, 9, 2], [0, 1, 9]])
    assert list(zip(*pairs_of(matrix).confused(), strict=True)) == [(1, 0, 3), (0, 1, 2), (1, 2, 2), (2, 1, 1)]
    assert list(zip(*pairs_of(matrix).confused(least=2), strict=True)) == [(1, 0, 3), (0, 1, 2), (1, 2, 2)]


def test_ten_thousand_classes_are_counted_in_the_memory_of_what_was_seen() -> None:
    task = ImageClassifier(torch.nn.Flatten(), num_classes=10_000, head="linear", weights=False)
    confusion = Confusion(task)
    confusion.update(torch.eye(10_000)[[5, 9_999, 7, 7]], torch.tensor([5, 0, 9_999, 9_999]))
    counts = confusion.compute()
    assert isinstance(counts, Pairs)
    assert list(zip(*counts, strict=True)) == [(0, 9_999, 1), (5, 5, 1), (9_999, 7, 2)]
    assert not drawable(counts)


def test_of_few_classes_there_is_a_matrix_and_of_labels_one_each() -> None:
    task = ImageClassifier(torch.nn.Flatten(), num_classes=3, head="linear", weights=False)
    confusion = Confusion(task)
    confusion.update(torch.eye(3)[[0, 1, 1]], torch.tensor([0, 1, 2]))
    assert confusion.compute().tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    labels = MultiLabelClassifier(torch.nn.Flatten(), num_classes=101, head="linear", weights=False)
    confusion, truth = Confusion(labels), torch.eye(101)[:50]
    confusion.update(truth.roll(1, 0), truth)
    expected = multilabel_confusion_matrix(truth, truth.roll(1, 0))
    assert np.array_equal(confusion.compute(), expected)
    assert not drawable(expected)
    assert drawable(expected[:100])
    hits, false, missed = rates(expected, 101)
    assert (hits.sum(), false.sum(), missed.sum()) == (0, 50, 50)
